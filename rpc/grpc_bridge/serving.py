"""The side that has the server."""

from __future__ import annotations

import hmac
import itertools
import os
import sys
import weakref
from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeVar, cast

from lattica.nat.base.errors import LatticaError, LocalProtocolError
from lattica.nat.base.keys.identity import PeerId, parse_peer_id
from lattica.rpc.grpc_bridge.socket_folder import SocketFolder
from lattica.rpc.ports.ports import Anyone, PeerLike

PORT = "grpc"
"""What the port is called unless it is given a name."""
_SCHEME = "unix-abstract:"
_SECRET = os.urandom(16).hex()
"""Of this process: peers cannot make it up. Other users of the machine can read it in
/proc/net/unix; they do not get to the port of :func:`serve_grpc`."""
_numbers = itertools.count(1)
_folders: weakref.WeakKeyDictionary[Any, SocketFolder] = weakref.WeakKeyDictionary()

T_co = TypeVar("T_co", covariant=True)


class Exposing(Protocol[T_co]):
    """What exposes ports: `node.ports`, :class:`lattica.Lattica`, :class:`lattica.AsyncLattica`."""

    def expose(
        self,
        target: int | str,
        *,
        name: str | None = ...,
        to: Collection[PeerLike] | Anyone | None = ...,
        key: str | None = ...,
        source: Callable[[PeerId], str] | None = ...,
    ) -> T_co: ...


class HasPorts(Protocol[T_co]):
    """A :class:`lattica.Node`."""

    @property
    def ports(self) -> Exposing[T_co]: ...


def serve_grpc(
    node: Exposing[T_co] | HasPorts[T_co],
    server: Any,
    *,
    name: str = PORT,
    to: Collection[PeerLike] | Anyone | None = None,
    key: str | None = None,
) -> T_co:
    """Let peers call a gRPC server: `grpc.server(…)` or `grpc.aio.server(…)`, as it is.

    Call it before `server.start()`; the server goes on being yours to start and to stop, and may
    have other ports.

    Args:
        node: a :class:`lattica.Node`, `Lattica` or `AsyncLattica`.
        server: gives it a port of its own, a unix socket that only this user can reach.
        name, to, key: what the port is called, and who may connect: as of
            :meth:`lattica.rpc.ports.ports.Ports.expose`. By default whoever has the key.

    Returns what that node's `expose` does (with `AsyncLattica`, to be awaited): an object with
    `key`, and with `close()`, which ends all calls of peers.

    Raises:
        LocalProtocolError: the server (but of grpc.aio) has been started already.
        What `expose` raises.
    """
    folder = _folders.get(server)
    if folder is None:
        # It would take the port, and never answer there.
        stage = getattr(getattr(server, "_state", None), "stage", None)
        if getattr(stage, "name", "STOPPED") != "STOPPED":
            raise LocalProtocolError("the gRPC server runs already: call serve_grpc before start()")
        folder = SocketFolder()
        server.add_insecure_port(f"unix:{folder.socket}")
        _folders[server] = folder
    ports = cast("Exposing[T_co]", getattr(node, "ports", node))
    source = _source if sys.platform == "linux" else None
    return ports.expose(f"unix:{folder.socket}", name=name, to=to, key=key, source=source)


def _source(peer_id: PeerId) -> str:
    """The socket that a peer's connection comes from, which gRPC tells handlers."""
    return f"lattica-grpc/{_SECRET}/{peer_id}/{next(_numbers)}"


def grpc_caller(context: Any) -> PeerId | None:
    """Which peer makes a call, from the context that a handler is given; on Linux.

    It is what the connection has proved: nothing in the call, no metadata, can change it. None for
    calls that came by another port of the server, and not over the mesh; that must be no unix
    socket that other users of this machine can open, since they can name theirs as they like.
    """
    peer = context.peer()
    if not isinstance(peer, str) or not peer.startswith(_SCHEME):
        return None
    parts = peer.removeprefix(_SCHEME).split("/")
    if len(parts) != 4 or not hmac.compare_digest(parts[1].encode(), _SECRET.encode()):
        return None
    try:
        return parse_peer_id(parts[2])
    except LatticaError:
        return None
