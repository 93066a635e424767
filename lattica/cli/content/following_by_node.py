"""`lattica fetch --watch` by the node that runs here, also when it is started anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from time import sleep
from typing import TYPE_CHECKING

from lattica.cli.content.by_node import event_of, keywords_of, result_of
from lattica.cli.shared.daemon import Stopped, by_daemon, until_stopped
from lattica.cli.shared.terminal import say
from lattica.nat.base.errors import LatticaError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lattica.cli.content.progress import FetchDisplay
    from lattica.content import FetchOptions, FetchResult
    from lattica.daemon.api.client import NodeClient, Responses
    from lattica.daemon.api.pb import node_pb2 as pb

_LOOK = 1.0
"""Seconds between looks whether a node runs here again."""
_GONE = "lattica: the node that runs here has ended; this goes on when one runs again"
_AGAIN = 10.0
"""Seconds after which a node that has not found the name is asked again."""


def follow_by(
    client: NodeClient,
    name: str,
    out: Path,
    tensors: str | None,
    options: FetchOptions,
    connect: Sequence[str] | None,
    show: Callable[[FetchResult], object],
) -> None:
    """Have the node keep a directory what a name leads to, until a signal comes; `show` each
    version.

    A node that ends is waited for, and the next one goes on. Of the first version errors are
    reported, and end the command; after that only those of the disk are.
    """
    from lattica.cli.content.progress import FetchDisplay

    def ask(node: NodeClient) -> Responses[pb.FetchProgress]:
        for target in connect or ():
            node.connect(target)
        return node.follow(name, out, tensors=tensors, **keywords_of(options))

    with by_daemon(client), FetchDisplay() as display:
        following = _Following(client, ask, show, display)
        try:
            until_stopped(following.tellings())
        except Stopped:
            if following.shown is None:
                say("interrupted; the same command goes on from here", err=True)
                raise
        finally:
            following.close()


class _Following:
    """By one node after the other."""

    def __init__(
        self,
        client: NodeClient,
        ask: Callable[[NodeClient], Responses[pb.FetchProgress]],
        show: Callable[[FetchResult], object],
        display: FetchDisplay,
    ) -> None:
        self._client = client
        self._ask = ask
        self._show = show
        self._display = display
        self.shown: FetchResult | None = None
        """The version that was shown last."""
        self._is_waiting = False

    def close(self) -> None:
        """Have the node follow it no more."""
        self._client.close()

    def tellings(self) -> Iterator[Callable[[], None]]:
        """What is to be printed, for :func:`until_stopped`."""
        from lattica.content.errors import StorageError
        from lattica.daemon.errors import DaemonError, DaemonGoneError

        while True:
            try:
                yield from self._by_one_node()
            except DaemonGoneError:
                if not self._is_waiting:
                    self._is_waiting = True
                    yield partial(say, _GONE, err=True)
                self._client = self._next_client()
            except (StorageError, DaemonError):
                raise
            except (LatticaError, TimeoutError) as error:
                if self.shown is None:
                    raise
                yield partial(say, f"not fetched yet: {error}", err=True)
                sleep(_AGAIN)

    def _by_one_node(self) -> Iterator[Callable[[], None]]:
        if self._is_waiting:
            self._client.status()  # one that is about to end says so
            self._is_waiting = False
            yield partial(say, "lattica: a node runs here again", err=True)
        with self._ask(self._client) as responses:
            for message in responses:
                yield partial(self._tell, message)

    def _tell(self, message: pb.FetchProgress) -> None:
        if message.HasField("done"):
            result, former = result_of(message.done), self.shown
            self.shown = result
            # The next node sees first that the version of the last one is there.
            if former is None or former.cid != result.cid or result.bytes_fetched:
                self._show(result)
        elif message.phase == "failed":
            say(f"not fetched yet: {message.error}", err=True)
        else:
            event = event_of(message)
            if event is not None:
                self._display(event)

    def _next_client(self) -> NodeClient:
        from lattica.daemon.api.client import NodeClient
        from lattica.daemon.errors import DaemonGoneError

        self._client.close()
        while True:
            sleep(_LOOK)
            with suppress(DaemonGoneError):
                return NodeClient(self._client.socket)
