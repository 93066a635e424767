"""Commands for content: what is published, fetched and kept."""
