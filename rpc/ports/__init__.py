"""Any TCP service of one peer, on a local port of another.

How to use it is in `docs/guides/ports.md`.

| module | what is in it |
|---|---|
| :mod:`~lattica.rpc.ports.ports` | :class:`Ports`, which is `node.ports` |
| :mod:`~lattica.rpc.ports.endpoints` | what is connected to and listened on, from its text |
| :mod:`~lattica.rpc.ports.messages` | the question that opens a connection, and its answer |
| :mod:`~lattica.rpc.ports.exposer` | the side that has the service |
| :mod:`~lattica.rpc.ports.forwarder` | the side that has the clients |
| :mod:`~lattica.rpc.ports.pump` | bytes between a socket and a stream, and how both end |
| :mod:`~lattica.rpc.ports.events` | what there is to be told of connections |
| :mod:`~lattica.rpc.ports.config` | limits and times |
"""
