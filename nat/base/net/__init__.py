"""Addresses: multiaddrs, IP ranges and what counts as one network."""
