"""The `lattica node` that runs beside a command, if there is one."""

from __future__ import annotations

import os
import signal
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from lattica.cli.shared.common import reported_errors
from lattica.cli.shared.global_options import GlobalOptions
from lattica.cli.shared.terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    import typer

    from lattica.config import NodeConfig
    from lattica.daemon.api.client import NodeClient

_SIGNAL_EXIT = 128
_LOOK = 0.2
"""Seconds between looks for a signal."""


class Stopped(BaseException):
    """A signal that ends a command has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def running_node(ctx: typer.Context, config: NodeConfig, **given: object) -> NodeClient | None:
    """The node that runs with this configuration, for the command to have it do the work.

    None where there is none that can be used, where `--no-daemon` or `--identity` is given, and
    where one of the options `given` is, by their names: they say what a node of the command's own
    is to be like, or are for what the one that runs does not do. The user is told of that.
    """
    from lattica.daemon.errors import DaemonError

    options = ctx.find_object(GlobalOptions) or GlobalOptions()
    if options.no_daemon or "identity_path" in options.overrides:
        return None
    alone = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    try:
        if not alone:
            return node_here(config)
        if _is_running(config):
            say(
                "lattica: the node that runs here is not used: this command starts its own, for "
                f"{' and '.join(alone)}",
                err=True,
            )
    except DaemonError as error:
        say(f"lattica: the node that runs here is not used: {error}", err=True)
    return None


def node_here(config: NodeConfig) -> NodeClient | None:
    """The node that runs with this configuration; None where there is none.

    Raises:
        DaemonError: there is something that cannot be used.
    """
    return required_node(config) if _is_running(config) else None


def _is_running(config: NodeConfig) -> bool:
    """Whether a node listens there. Raises :class:`DaemonError`: something that cannot be used."""
    path = config.node.socket_in(config.data_dir)
    if not os.path.lexists(path):
        return False
    from lattica.daemon.api import socket_file

    return socket_file.is_there(path)


def required_node(config: NodeConfig) -> NodeClient:
    """The node that runs with this configuration, for a command that nothing else can do.

    Raises:
        DaemonError: there is none that can be used.
    """
    from lattica.daemon.api.client import NodeClient

    return NodeClient(config.node.socket_in(config.data_dir))


def beside_node(ctx: typer.Context, config: NodeConfig) -> NodeConfig:
    """The configuration of a command that is a peer of its own, also beside the node that runs
    here: that has the key and the ports, and is whom the command joins by where nobody is named.
    """
    from dataclasses import replace

    from lattica.cli.shared.listening import beside_others

    client = running_node(ctx, config)
    if client is None:
        return config
    with reported_errors(), client:
        addrs = client.status().addrs
    return replace(
        config,
        identity_path=None,
        bootstrap=config.bootstrap or tuple(addrs),
        swarm=replace(config.swarm, listen=beside_others(config.swarm.listen)),
    )


@contextmanager
def by_daemon(client: NodeClient, connect: Sequence[str] | None = None) -> Iterator[NodeClient]:
    """Have a node do something for a command, which SIGINT and SIGTERM end with 128 and the
    signal's number; it is connected to `connect` first."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    former = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        with reported_errors(), client:
            for target in connect or ():
                client.connect(target)
            yield client
    except Stopped as stopped:
        raise SystemExit(_SIGNAL_EXIT + stopped.number) from None
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


def until_stopped(tellings: Iterator[Callable[[], None]]) -> None:
    """Wait in a thread for what a node has to tell, and tell it here, within :func:`by_daemon`.

    A signal that comes within gRPC's own code, as long waits are, or within `threading`'s can
    leave them where nothing ends them any more: this thread waits in neither. It alone writes, as
    Python aborts at its end where another thread is within standard output.
    """
    told: SimpleQueue[Callable[[], None] | BaseException | None] = SimpleQueue()
    taken: SimpleQueue[None] = SimpleQueue()

    def run() -> None:
        try:
            for tell in tellings:
                told.put(tell)
                taken.get()
        except BaseException as error:
            told.put(error)
        else:
            told.put(None)

    start_new_thread(run, ())
    while True:
        try:
            tell = told.get(timeout=_LOOK)  # a signal that comes just before it does not wake it
        except Empty:
            continue
        if tell is None:
            return
        if isinstance(tell, BaseException):
            raise tell
        tell()
        taken.put(None)
