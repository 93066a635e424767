"""RPC for threads and for asyncio: `Lattica.rpc`, `AsyncLattica.rpc`."""
