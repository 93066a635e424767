"""What of this node can be reached from where, and what kind of NAT is in between."""
