"""UDP hole punching by ICE (RFC 8445), on the socket that QUIC listens on."""
