"""The side that relays for others."""
