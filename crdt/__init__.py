"""The replicated, signed, verifiable store will live here; nothing is built yet."""
