"""Whether messages are what their topics are for, as validators of the application say."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isawaitable

import trio

from lattica.dht.topics.core.actions import Validate
from lattica.dht.topics.core.router import Verdict
from lattica.dht.topics.service.topic import Validator
from lattica.nat.base.concurrency.tasks import Tasks
from lattica.nat.base.foreign_code import settle
from lattica.nat.base.peer_log import peer_log

logger = logging.getLogger(__name__)

_STRICTEST = (Verdict.REJECT, Verdict.IGNORE)
"""Verdicts, of which the first that anybody gives counts."""


class Judges:
    """The validators of all topics.

    Args:
        limit: messages of a topic that validators are awaited for at a time; of more, those that
            would wait are ignored.
        timeout: seconds that a validator may take.
        on_needed: is told of each topic whether its messages are to be judged.
        on_judged: is told what came of a message.
    """

    def __init__(
        self,
        tasks: Tasks,
        limit: int,
        timeout: float,
        *,
        on_needed: Callable[[str, bool], object],
        on_judged: Callable[[Validate, Verdict], object],
    ) -> None:
        self._tasks = tasks
        self._limit = limit
        self._timeout = timeout
        self._on_needed = on_needed
        self._on_judged = on_judged
        self._of_blocks: dict[str, list[Validator]] = {}
        """By topic."""
        self._set: dict[str, Validator] = {}
        """The application's."""
        self._awaited: dict[str, int] = {}

    @property
    def of_blocks(self) -> int:
        """Topics that blocks judge."""
        return len(self._of_blocks)

    def set(self, name: str, validator: Validator | None) -> None:
        """See :meth:`Topic.set_validator`."""
        if validator is None:
            self._set.pop(name, None)
        else:
            self._set[name] = validator
        self._on_needed(name, bool(self._of(name)))

    @contextmanager
    def judging(self, name: str, validator: Validator) -> Iterator[None]:
        """See :meth:`Topic.judging`."""
        line = self._of_blocks.setdefault(name, [])
        line.append(validator)
        self._on_needed(name, True)
        try:
            yield
        finally:
            line.remove(validator)
            if not line:
                del self._of_blocks[name]
            self._on_needed(name, bool(self._of(name)))

    def judge(self, action: Validate) -> None:
        """Have a message judged, at once where all of its validators are plain functions."""
        name = action.message.topic
        verdicts: list[object] = []
        for validator in self._of(name):
            try:
                verdicts.append(validator(action.message))
            except BaseException as error:
                settle(error, lambda own: self._report(name, own))
                verdicts.append(Verdict.IGNORE)
        pending = [verdict for verdict in verdicts if isawaitable(verdict)]
        settled = [self._verdict(name, v) for v in verdicts if not isawaitable(v)]
        if pending and self._awaited.get(name, 0) < self._limit:
            self._awaited[name] = self._awaited.get(name, 0) + 1
            self._tasks.start_soon(self._await, action, settled, pending)
            return
        for verdict in pending:
            if hasattr(verdict, "close"):
                verdict.close()
            settled.append(Verdict.IGNORE)
        self._judged(action, settled)

    def _of(self, name: str) -> list[Validator]:
        own = self._set.get(name)
        return [*self._of_blocks.get(name, ()), *(() if own is None else (own,))]

    async def _await(
        self, action: Validate, settled: list[Verdict], pending: Sequence[Awaitable[object]]
    ) -> None:
        name = action.message.topic

        async def settle_one(one: Awaitable[object]) -> None:
            verdict: object = Verdict.IGNORE
            try:
                with trio.move_on_after(self._timeout):
                    verdict = await one
            except BaseException as error:
                settle(error, lambda own: self._report(name, own))
            settled.append(self._verdict(name, verdict))

        try:
            async with trio.open_nursery() as nursery:
                for one in pending:
                    nursery.start_soon(settle_one, one)
        finally:
            self._awaited[name] -= 1
            if not self._awaited[name]:
                del self._awaited[name]
        self._judged(action, settled)

    def _verdict(self, name: str, verdict: object) -> Verdict:
        if isinstance(verdict, bool):
            return Verdict.ACCEPT if verdict else Verdict.REJECT
        if isinstance(verdict, Verdict):
            return verdict
        self._report(name, TypeError(f"a validator returned {type(verdict).__name__}"))
        return Verdict.IGNORE

    def _judged(self, action: Validate, verdicts: Sequence[Verdict]) -> None:
        """The strictest counts."""
        verdict = next((v for v in _STRICTEST if v in verdicts), Verdict.ACCEPT)
        self._on_judged(action, verdict)

    def _report(self, name: str, error: BaseException) -> None:
        peer_log.log(
            logger,
            logging.ERROR,
            f"validator {name}",
            "the validator of topic %r failed; the message is ignored",
            name,
            exc_info=error,
        )
