"""STUN (RFC 8489) and what it tells of the NAT in front of this node (RFC 5780)."""
