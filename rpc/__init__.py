"""Calls between peers: typed, streaming, tensors without copies. How to use it is in `docs/rpc.md`.

| module | what is in it |
|---|---|
| :mod:`~lattica.rpc.rpc` | :class:`Rpc`, which is `node.rpc`: serve a service, make a stub of one |
| :mod:`~lattica.rpc.errors` | status codes as exceptions |
| :mod:`~lattica.rpc.config` | limits, times and budgets |
| :mod:`~lattica.rpc.services` | what a service is, and the context of a call |
| :mod:`~lattica.rpc.encoding` | values to bytes and back; without a network |
| :mod:`~lattica.rpc.protocol` | both planes on the wire: codecs and pure cores |
| :mod:`~lattica.rpc.client` | stubs, retries, balancing, and the calling side of both planes |
| :mod:`~lattica.rpc.server` | sessions, handlers and the serving side of both planes |
| :mod:`~lattica.rpc.data_plane` | its streams, and memory that peers on one machine share |
| :mod:`~lattica.rpc.leases`, :mod:`~lattica.rpc.lending` | buffers that are lent |
| :mod:`~lattica.rpc.telemetry`, :mod:`~lattica.rpc.prometheus` | what is counted |
| :mod:`~lattica.rpc.ports`, :mod:`~lattica.rpc.grpc_bridge` | TCP services and gRPC over it |

All of it stands on a :class:`~lattica.nat.swarm.host.Host`. The names below are for users; they are
imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.rpc.client.balance import FixedProviders, Resolver
    from lattica.rpc.client.options import CallOptions
    from lattica.rpc.client.response import ResponseStream
    from lattica.rpc.client.stubs import with_options
    from lattica.rpc.config import RpcConfig
    from lattica.rpc.errors import (
        AbortedError,
        AlreadyExistsError,
        CallCancelledError,
        DataLossError,
        DeadlineExceededError,
        FailedPreconditionError,
        InternalError,
        InvalidArgumentError,
        NotFoundError,
        OutOfRangeError,
        PermissionDeniedError,
        ResourceExhaustedError,
        RpcError,
        StatusCode,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
        UnknownError,
    )
    from lattica.rpc.leases.book import LeaseEnd
    from lattica.rpc.leases.ref import BufferRef
    from lattica.rpc.rpc import Rpc, open_rpc
    from lattica.rpc.services.context import CallContext
    from lattica.rpc.services.definition import method, service

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "BufferRef",
    "CallCancelledError",
    "CallContext",
    "CallOptions",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "FixedProviders",
    "InternalError",
    "InvalidArgumentError",
    "LeaseEnd",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "Resolver",
    "ResourceExhaustedError",
    "ResponseStream",
    "Rpc",
    "RpcConfig",
    "RpcError",
    "StatusCode",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
    "method",
    "open_rpc",
    "service",
    "with_options",
]

# Where the names above live, apart from the errors.
_HOME = {
    "BufferRef": "lattica.rpc.leases.ref",
    "CallContext": "lattica.rpc.services.context",
    "CallOptions": "lattica.rpc.client.options",
    "FixedProviders": "lattica.rpc.client.balance",
    "LeaseEnd": "lattica.rpc.leases.book",
    "Resolver": "lattica.rpc.client.balance",
    "ResponseStream": "lattica.rpc.client.response",
    "Rpc": "lattica.rpc.rpc",
    "RpcConfig": "lattica.rpc.config",
    "method": "lattica.rpc.services.definition",
    "open_rpc": "lattica.rpc.rpc",
    "service": "lattica.rpc.services.definition",
    "with_options": "lattica.rpc.client.stubs",
}

# Hidden from type checkers: to them a module with `__getattr__` has every name, typos included.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'lattica.rpc' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_HOME.get(name, "lattica.rpc.errors")), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
