"""Ways from a multiaddr to a pipe of bytes, and the UDP socket under QUIC."""
