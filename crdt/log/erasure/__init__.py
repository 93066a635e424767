"""Payloads that are erased: what says so, and what becomes of the entries. Pure."""
