"""Streams and events of a node, for threads (`blocking`) and for asyncio (`aio`)."""
