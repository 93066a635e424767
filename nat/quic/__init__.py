"""QUIC: connections over one UDP socket, with the peer proved by Noise on stream 0."""
