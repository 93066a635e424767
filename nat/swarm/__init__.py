"""Every connection of a node: how it is dialed, accepted, kept, limited and ended."""
