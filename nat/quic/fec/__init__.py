"""Forward error correction between QUIC and the UDP socket."""
