"""Attacks by calls."""
