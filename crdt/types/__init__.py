"""What a document holds, resolved from its admitted entries. Pure."""
