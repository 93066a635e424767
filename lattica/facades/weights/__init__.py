"""Channels of weights for threads and asyncio, and for vLLM."""
