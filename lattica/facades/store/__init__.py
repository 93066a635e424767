"""Replicated documents, as threads and asyncio hold them."""
