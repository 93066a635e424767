"""The threads in which a blocking facade's stream handlers run."""

from __future__ import annotations

import functools
import importlib
import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import trio

from lattica.facades.threads.bridge import Bridge
from lattica.facades.threads.handoff import StreamCore
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.foreign_code import described
from lattica.nat.swarm.serving.handler_kind import require_finished
from lattica.nat.swarm.serving.handler_places import HandlerPlaces

if TYPE_CHECKING:
    from lattica.facades.streams.blocking import BlockingStream
    from lattica.nat.mux.stream import Stream

logger = logging.getLogger(__name__)

MAX_HANDLER_THREADS = 1024
"""They are made as they are needed, and end when they have had nothing to do for ten seconds. A
blocked one costs about 20 KiB."""
_NEAR = 0.8
"""The part of the limit from which on a person is told."""
_REST = 60.0
"""Seconds between two lines about the same."""
_SHOWN = 5
"""Protocols that a line names."""


def handler_named(name: str) -> Callable[[BlockingStream], object]:
    """The function that "package.module:function" names.

    Raises:
        LocalProtocolError: there is none, or its module cannot be imported; the message says why.
    """
    module, _, path = name.partition(":")
    try:
        if module == "__main__" or not path:
            raise ImportError("a handler is a function, or package.module:function")
        found = functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise LocalProtocolError(f"there is no handler {name!r}: {error}") from error
    return cast("Callable[[BlockingStream], object]", found)


class HandlerThreads:
    """Runs stream handlers in trio's worker threads, at most `limit` at once.

    Those that block for long starve neither each other nor the node, which has a thread of its
    own, until the limit; a WARNING says before that what occupies the threads. At the limit peers
    share them (:mod:`lattica.nat.swarm.serving.handler_places`): no peer keeps others waiting.
    """

    def __init__(
        self, bridge: Bridge[Any], limit: int, wrap: Callable[[StreamCore], BlockingStream]
    ) -> None:
        self._bridge = bridge
        self._places = HandlerPlaces(limit)
        self._limiter = trio.CapacityLimiter(limit)
        """Counts the threads that a cancelled :meth:`serve` has left alone, too."""
        self._wrap = wrap
        self._running: set[int] = set()
        self._changed = threading.Condition()
        self._protocols: Counter[str] = Counter()
        """Of the streams that have a thread or wait for one; in the trio thread only."""
        self._told: dict[bool, float] = {}
        """When it was last said that the threads are nearly, or all, busy."""

    async def serve(self, handler: Callable[[BlockingStream], object], stream: Stream) -> None:
        """In the trio thread: have the handler run, and wait for it.

        If cancelled (the node stops), the thread is left alone: its next use of the stream
        raises.
        """
        core = StreamCore(self._bridge, stream)
        self._protocols[stream.protocol] += 1
        self._watch()
        try:
            async with self._places.of(stream):
                with core.handled():
                    await trio.to_thread.run_sync(
                        self._run,
                        handler,
                        self._wrap(core),
                        abandon_on_cancel=True,
                        limiter=self._limiter,
                    )
                    await core.queue.flush()
        finally:
            self._protocols[stream.protocol] -= 1
            if not self._protocols[stream.protocol]:
                del self._protocols[stream.protocol]

    def _watch(self) -> None:
        """Another stream has come: say so when there are hardly any threads left for them."""
        limit, busy = int(self._limiter.total_tokens), self._protocols.total()
        if busy < _NEAR * limit:
            return
        full, now = busy > limit, trio.current_time()
        if now < self._told.get(full, -_REST) + _REST:
            return
        self._told[full] = now
        most = self._protocols.most_common(_SHOWN)
        logger.warning(
            "%d of %d handler threads are busy%s: return sooner, bound a protocol with "
            "handle(..., limit=), or allow more with max_handler_threads streams=%s",
            min(busy, limit),
            limit,
            f", and {busy - limit} streams wait for one" if full else "",
            ", ".join(f"{count} of {protocol}" for protocol, count in most),
        )

    def _run(self, handler: Callable[[BlockingStream], object], stream: BlockingStream) -> None:
        me = threading.get_ident()
        with self._changed:
            self._running.add(me)
        try:
            self._bridge.check()
            require_finished(handler(stream))
        except Exception:
            raise
        except BaseException as exc:  # a handler's sys.exit() must not end the node
            raise RuntimeError(f"the handler raised {described(exc)}") from exc
        finally:
            with self._changed:
                self._running.discard(me)
                self._changed.notify_all()

    def wait(self, grace: float) -> None:
        """Wait up to `grace` seconds for the handlers; not for the one that calls this."""
        me = threading.get_ident()
        with self._changed:
            if not self._changed.wait_for(lambda: not self._running - {me}, grace):
                logger.warning(
                    "%d stream handlers have not returned; their threads are left behind",
                    len(self._running - {me}),
                )
