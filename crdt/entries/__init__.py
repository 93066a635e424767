"""What the log consists of: genesis, headers, chains of them, and proofs of a fork. Pure."""
