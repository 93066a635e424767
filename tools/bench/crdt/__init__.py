"""The CRDT store measured: documents in files, without a network between them."""
