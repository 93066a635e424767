"""Many streams over one connection: yamux, and what every multiplexer shares."""
