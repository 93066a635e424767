"""The side that has files and serves them."""
