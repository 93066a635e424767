"""Lattica: the network layer for distributed AI.

Machines behind NATs and firewalls form one mesh in which a peer is reached by its key, content
is found by its hash, and model weights move fast. :class:`Node` is the interface for trio,
:class:`Lattica` the blocking, thread-safe one, and :class:`AsyncLattica` the one for asyncio.

Names are imported when they are first used (PEP 562), so that `import lattica` stays cheap and
one floor (say `lattica.nat`) can be imported without the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lattica.compat.calls.decorators import rpc_method, rpc_stream, rpc_stream_iter
    from lattica.compat.calls.handler import ConnectionHandler
    from lattica.config import NodeConfig, load_config
    from lattica.content.errors import (
        ContentChangedError,
        ContentError,
        ContentNotFoundError,
        IntegrityError,
        NameNotFoundError,
        SignatureError,
        StorageError,
        TicketError,
    )
    from lattica.crdt.log.errors import (
        StoreCorruptError,
        StoreError,
        StoreFullError,
        StoreInUseError,
    )
    from lattica.daemon.errors import (
        CannotCrossError,
        DaemonError,
        DaemonGoneError,
        ProcessEndedError,
    )
    from lattica.dht.errors import DhtError, NoDhtPeersError, NotStoredError
    from lattica.facades.aio import AsyncLattica
    from lattica.facades.blocking import Lattica
    from lattica.nat.base.errors import (
        AccessDeniedError,
        AddressError,
        ConfigError,
        ConnectionClosedError,
        DialError,
        IdentityError,
        IncompleteReadError,
        KeyInUseError,
        LatticaError,
        ListenError,
        LocalProtocolError,
        NotConnectedError,
        PeerLimitError,
        PeerMismatchError,
        RemoteProtocolError,
        ResourceLimitError,
        StreamClosedError,
        StreamResetError,
        UnsupportedProtocolError,
    )
    from lattica.nat.base.keys.identity import Identity, PeerId
    from lattica.nat.mux.priority import Priority
    from lattica.node import Node
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
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
        UnknownError,
    )
    from lattica.rpc.ports.messages import PortRefusedError

    __version__: str

__all__ = [
    "AbortedError",
    "AccessDeniedError",
    "AddressError",
    "AlreadyExistsError",
    "AsyncLattica",
    "CallCancelledError",
    "CannotCrossError",
    "ConfigError",
    "ConnectionClosedError",
    "ConnectionHandler",
    "ContentChangedError",
    "ContentError",
    "ContentNotFoundError",
    "DaemonError",
    "DaemonGoneError",
    "DataLossError",
    "DeadlineExceededError",
    "DhtError",
    "DialError",
    "FailedPreconditionError",
    "Identity",
    "IdentityError",
    "IncompleteReadError",
    "IntegrityError",
    "InternalError",
    "InvalidArgumentError",
    "KeyInUseError",
    "Lattica",
    "LatticaError",
    "ListenError",
    "LocalProtocolError",
    "NameNotFoundError",
    "NoDhtPeersError",
    "Node",
    "NodeConfig",
    "NotConnectedError",
    "NotFoundError",
    "NotStoredError",
    "OutOfRangeError",
    "PeerId",
    "PeerLimitError",
    "PeerMismatchError",
    "PermissionDeniedError",
    "PortRefusedError",
    "Priority",
    "ProcessEndedError",
    "RemoteProtocolError",
    "ResourceExhaustedError",
    "ResourceLimitError",
    "RpcError",
    "SignatureError",
    "StorageError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreInUseError",
    "StreamClosedError",
    "StreamResetError",
    "TicketError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
    "UnsupportedProtocolError",
    "__version__",
    "load_config",
    "rpc_method",
    "rpc_stream",
    "rpc_stream_iter",
]

# By this the floors know that they are imported below their own package.
_DISTRIBUTION = "lattica-stack"

# Where the names above live, apart from the errors.
_HOME = {
    "ConnectionHandler": "lattica.compat.calls.handler",
    "rpc_method": "lattica.compat.calls.decorators",
    "rpc_stream": "lattica.compat.calls.decorators",
    "rpc_stream_iter": "lattica.compat.calls.decorators",
    "AsyncLattica": "lattica.facades.aio",
    "Identity": "lattica.nat.base.keys.identity",
    "Lattica": "lattica.facades.blocking",
    "Node": "lattica.node",
    "NodeConfig": "lattica.config",
    "PeerId": "lattica.nat.base.keys.identity",
    "Priority": "lattica.nat.mux.priority",
    "load_config": "lattica.config",
}

try:
    from lattica.nat.base.installation import warn_of_other
except ModuleNotFoundError as error:
    if error.name != "lattica.nat":
        raise
    # The folder nat/ beside this one is lattica.nat only where that is installed.
    raise ImportError(
        f"{__path__[0]} is part of a checkout of Lattica that is not installed, and hides a "
        "Lattica that is: run `pip install -e .` there, or change directory",
        name=error.name,
    ) from None
warn_of_other(__path__[0])

# Hidden from type checkers: to them a module with `__getattr__` has every name, typos included.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'lattica' has no attribute {name!r}")
        if name == "__version__":
            from importlib.metadata import version

            value: object = version("lattica-stack")
        else:
            from importlib import import_module

            value = getattr(import_module(_HOME.get(name, "lattica.errors")), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
