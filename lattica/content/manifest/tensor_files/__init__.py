"""Files of tensors: what their headers say, and what the index of a sharded checkpoint does."""
