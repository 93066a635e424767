"""Tensors of a publication without a directory between: into memory, as they come."""
