"""The serving side, under trio."""
