"""Targets of content: what is fetched, by what names, and what is told of it."""
