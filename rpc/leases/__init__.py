"""Buffers that stay where they are, and are read by the peer to which they are lent. Pure."""
