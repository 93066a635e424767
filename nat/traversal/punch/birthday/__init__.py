"""The birthday method: a hole through a NAT that gives every destination another port."""
