"""The attacks, one module for what they attack."""
