"""From addresses to a connection: all at once, the first that succeeds."""
