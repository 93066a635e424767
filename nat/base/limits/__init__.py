"""How much of something a peer may have, and who yields when it runs short."""
