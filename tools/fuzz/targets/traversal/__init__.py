"""Targets of what gets a node through NATs."""
