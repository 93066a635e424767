"""The path between the two ends of a QUIC connection: where the peer is, and what gets through."""
