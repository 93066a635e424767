"""Topics for threads and for asyncio: `Lattica.topic`, `AsyncLattica.topic`."""
