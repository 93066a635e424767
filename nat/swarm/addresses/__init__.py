"""Which addresses are known: of others, of this node, and of the NAT in front of it."""
