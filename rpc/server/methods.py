"""A method that is served: checks, runs and answers one call."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from lattica.nat.base.concurrency.exception_groups import unwrapped
from lattica.nat.base.foreign_code import as_raised, described, parted
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.peer_log import peer_log
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.errors import (
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
    RpcError,
    StatusCode,
)
from lattica.rpc.server.threads import HandlerThreads
from lattica.rpc.server.workers import Patience
from lattica.rpc.services.context import CallContext
from lattica.rpc.services.definition import Method
from lattica.rpc.telemetry.statistics import MethodCounters

logger = logging.getLogger(__name__)

_MAX_TOLD: Final = 8000
"""Characters of the message of a handler's RpcError."""
_MAX_MESSAGE: Final = 2000
_MAX_TRACEBACK: Final = 10_000
"""Characters of other failures: they fit a frame of the control plane, whatever they are."""
_MAX_CODE: Final = 2**31

Authorize = Callable[[CallContext], object]
"""Raises :class:`PermissionDeniedError` (or another error), or returns False, to refuse a call.
A plain function: nobody would wait for what an async one finds."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call fails, as it travels."""

    code: int
    message: str
    facts: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class ServedMethod:
    """A method of a service's implementation, and who may call it."""

    definition: Method
    function: Callable[..., Any]
    counters: MethodCounters
    threads: HandlerThreads
    """For handlers that are not async."""
    allow: Collection[PeerId] | None
    authorize: Authorize | None
    patience: Patience = field(default_factory=Patience)

    @property
    def needs_context(self) -> bool:
        """Whether anybody looks at the context of its calls."""
        return (
            self.definition.context_parameter is not None
            or self.allow is not None
            or self.authorize is not None
        )

    def arguments(
        self,
        args: list[Any],
        keywords: dict[str, Any],
        refusal: RefusedValueError | None,
    ) -> tuple[list[Any], dict[str, Any]]:
        """Hold what has arrived to the annotations. Raises InvalidArgumentError."""
        try:
            if refusal is not None:
                raise refusal
            keywords = dict(keywords) if keywords else {}
            self.definition.check_arguments(args, keywords)
        except RefusedValueError as error:
            raise InvalidArgumentError(str(error), may_have_run=False) from None
        if not self.definition.is_positional:
            for parameter, value in zip(self.definition.parameters, args, strict=False):
                keywords[parameter.name] = value
            args = []
        return args, keywords

    def check_access(self, context: CallContext) -> None:
        """Raises PermissionDeniedError, or what the hook raises."""
        if self.allow is not None and context.peer not in self.allow:
            raise PermissionDeniedError(
                f"{context.peer} may not call {context.method}", may_have_run=False
            )
        verdict = None if self.authorize is None else self.authorize(context)
        if inspect.iscoroutine(verdict):
            verdict.close()
            raise PermissionDeniedError(
                f"{context.method} is refused: authorize is async, so that nothing of it has run",
                may_have_run=False,
            )
        if verdict is False:
            raise PermissionDeniedError(f"{context.method} is refused", may_have_run=False)

    async def run(self, args: list[Any], keywords: dict[str, Any], network: Hashable) -> Any:
        """Run a handler whose result is one value, for a caller in a network, and check that."""
        definition = self.definition
        if definition.is_async:
            result = await self.function(*args, **keywords)
        elif definition.inline:
            result = self.function(*args, **keywords)
        else:
            threads = self.threads.of(network)
            result = await threads.run(partial(self.function, *args, **keywords), self.patience)
        return self.checked(result)

    def checked(self, result: Any) -> Any:
        """A result, or an item of a stream of them. Raises InternalError."""
        check = self.definition.check_result
        if check is None:
            return result
        try:
            return check(result)
        except RefusedValueError as error:
            raise InternalError(f"{self.definition.full_name} returned: {error}") from None

    def failure(self, error: BaseException, peer: PeerId, *, send_traceback: bool) -> Failure:
        """What the caller is told of an error that may be of any kind.

        Raises the part of it that is no error of the handler's: a cancellation, or a Ctrl-C.
        """
        passing, own = parted(error)
        try:
            if own is None or passing is not None:
                if own is not None:
                    self._log(own, peer)
                raise error if passing is None else passing
        finally:
            # What is raised leads to this frame, which would wait for the collector with it.
            del error, passing
        own = as_raised(unwrapped(own))
        if isinstance(own, RpcError):
            return _told(own)
        self._log(own, peer)
        shown = "".join(traceback.format_exception(own)) if send_traceback else ""
        facts = {"type": type(own).__name__[:200], "traceback": shown[-_MAX_TRACEBACK:]}
        return Failure(StatusCode.UNKNOWN, described(own)[:_MAX_MESSAGE], facts)

    def _log(self, error: BaseException, peer: PeerId) -> None:
        """A caller may make a handler fail as often as it likes."""
        name = self.definition.full_name
        peer_log.log(
            logger, logging.ERROR, peer, "handler of %s failed peer=%s", name, peer, exc_info=error
        )


def _told(error: RpcError) -> Failure:
    """What a handler tells by an error; it may be of a class of its own, and wrongly made."""
    code: object = error.code
    pause: object = error.retry_after
    if not isinstance(code, int) or not 0 < code < _MAX_CODE:
        code = StatusCode.UNKNOWN
    facts = {
        "not_run": not error.may_have_run,
        "retry_after": float(pause) if isinstance(pause, (int, float)) else None,
    }
    return Failure(code, error.message[:_MAX_TOLD], facts)
