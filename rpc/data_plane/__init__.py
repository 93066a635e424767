"""The data plane as both sides drive it: streams, and what large bodies may take of the machine."""
