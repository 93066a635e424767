"""Calls between peers: typed, streaming, tensors without copies. How to use it is in `docs/rpc.md`.

| module | what is in it |
|---|---|
| :mod:`~lattica.rpc.errors` | status codes as exceptions |
| :mod:`~lattica.rpc.config` | limits, times and budgets |
| :mod:`~lattica.rpc.service` | what a service is, and the context of a call |
| :mod:`~lattica.rpc.encoding` | values to bytes and back; without a network |
| :mod:`~lattica.rpc.protocol` | both planes on the wire: codecs and pure cores |
| :mod:`~lattica.rpc.client`, :mod:`~lattica.rpc.server` | the two sides, under trio |
| :mod:`~lattica.rpc.data_stream`, :mod:`~lattica.rpc.budget` | what both sides use |

All of it stands on a :class:`~lattica.nat.swarm.host.Host`.
"""
