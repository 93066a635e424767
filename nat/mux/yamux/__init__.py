"""yamux: its frames, and a session of them. Pure."""
