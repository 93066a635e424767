"""Everything that gets a node through NATs: each protocol has a room of its own."""
