"""One QUIC connection as a multiplexed session, without I/O."""
