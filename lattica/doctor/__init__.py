"""What keeps peers from reaching a node, and what to do about it."""
