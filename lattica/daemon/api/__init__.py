"""The local API of a node: gRPC over a unix socket that only this user can open.

How to use it is in docs/operating/daemon.md.

| module | what is in it |
|---|---|
| :mod:`~lattica.daemon.api.pb` | the messages and the service, `node.proto` |
| :mod:`~lattica.daemon.api.status` | how a node is, as a message and as JSON |
| :mod:`~lattica.daemon.api.methods` | what each method does, under trio |
| :mod:`~lattica.daemon.api.failures` | errors as gRPC's status, and back |
| :mod:`~lattica.daemon.api.socket_file` | the socket's file: who may open it, and whose it is |
| :mod:`~lattica.daemon.api.server` | gRPC's threads on one side, trio on the other |
| :mod:`~lattica.daemon.api.client` | :class:`NodeClient`, for other programs |

The server and the client need grpcio, which is the extra `grpc`.
"""
