"""Streams that peers open: who handles which, and how many at a time."""
