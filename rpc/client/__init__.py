"""The calling side, under trio."""
