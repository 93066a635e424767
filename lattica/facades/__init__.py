"""A node for programs that do not run on trio: blocking, for threads, and for asyncio."""
