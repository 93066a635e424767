"""gRPC over the mesh: an unmodified server on one peer, unmodified stubs on another.

How to use it is in `docs/guides/grpc.md`. The HTTP/2 connection between the two is carried, as it
is, by a port (:mod:`lattica.rpc.ports`); each end is a unix socket in a folder that nobody else can
enter.
Needs grpcio, which is the extra `grpc`.

| module | what is in it |
|---|---|
| :mod:`~lattica.rpc.grpc_bridge.serving` | :func:`serve_grpc`, :func:`grpc_caller` |
| :mod:`~lattica.rpc.grpc_bridge.channel` | :func:`grpc_channel` |
| :mod:`~lattica.rpc.grpc_bridge.socket_folder` | where the sockets are |
"""

from lattica.rpc.grpc_bridge.channel import grpc_channel
from lattica.rpc.grpc_bridge.serving import grpc_caller, serve_grpc

__all__ = ["grpc_caller", "grpc_channel", "serve_grpc"]
