"""Asking others: questions over streams, lookups, and what is read and written by them."""
