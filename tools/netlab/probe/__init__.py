"""What kind of NAT is in between, found out by behaviour."""
