"""The door: a hub's HTTP routes on this machine, with what peers have behind them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lattica.content.download.options import FetchOptions
from lattica.content.hub.library import Library
from lattica.content.hub.server import HubServer
from lattica.content.swarm.messages import Member
from lattica.nat.base.errors import ListenError

if TYPE_CHECKING:
    from lattica.node import Node

DEFAULT_PORT = 8808


async def serve_door(
    node: Node,
    publishers: Sequence[Member],
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    options: FetchOptions | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the repositories of some publishers until it is cancelled.

    `task_status` is told the URL for `HF_ENDPOINT`. `directory`: where what was read is kept, of
    this door alone. `port` 0: any that is free.

    Raises:
        ListenError: the port is taken, or the host is not this machine's.
        StorageError: nothing can be kept in the directory.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ListenError(f"cannot listen on {host}:{port} ({reason}); choose another") from None
    names = [listener.socket.getsockname() for listener in listeners]
    is_local = all(ipaddress.ip_address(name[0].partition("%")[0]).is_loopback for name in names)
    shown = f"[{host}]" if ":" in host else host
    async with Library(node, publishers, directory, options) as library:
        server = HubServer(library, is_local=is_local)
        task_status.started(f"http://{shown}:{names[0][1]}")
        await trio.serve_listeners(server.serve, listeners)
