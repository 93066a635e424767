"""What QUIC reads from the network."""
