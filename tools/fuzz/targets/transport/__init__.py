"""Targets of what carries streams."""
