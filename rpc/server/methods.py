"""A method that is served: checks, runs and answers one call."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import trio

from lattica.nat.base.exception_groups import leaves
from lattica.nat.base.keys.identity import PeerId
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.errors import (
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
    RpcError,
    StatusCode,
)
from lattica.rpc.services.context import CallContext
from lattica.rpc.services.definition import Method
from lattica.rpc.statistics import MethodCounters

logger = logging.getLogger(__name__)

Authorize = Callable[[CallContext], object]
"""Raises :class:`PermissionDeniedError` (or another error), or returns False, to refuse a call."""


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
    limiter: trio.CapacityLimiter
    """For the threads of handlers that are not async."""
    allow: Collection[PeerId] | None
    authorize: Authorize | None

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
        if self.authorize is not None and self.authorize(context) is False:
            raise PermissionDeniedError(f"{context.method} is refused", may_have_run=False)

    async def run(self, args: list[Any], keywords: dict[str, Any]) -> Any:
        """Run a handler whose result is one value, and check that."""
        definition = self.definition
        if definition.is_async:
            result = await self.function(*args, **keywords)
        elif definition.inline:
            result = self.function(*args, **keywords)
        else:
            result = await trio.to_thread.run_sync(
                lambda: self.function(*args, **keywords),
                limiter=self.limiter,
                abandon_on_cancel=True,
            )
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

    def failure(self, error: Exception, *, send_traceback: bool) -> Failure:
        """What the caller is told of an error."""
        if isinstance(error, ExceptionGroup):
            errors = leaves(error)
            if len(errors) == 1 and isinstance(errors[0], Exception):
                error = errors[0]
        if isinstance(error, RpcError):
            facts = {"not_run": not error.may_have_run, "retry_after": error.retry_after}
            return Failure(error.code, error.message, facts)
        logger.error("handler of %s failed", self.definition.full_name, exc_info=error)
        shown = "".join(traceback.format_exception(error)) if send_traceback else ""
        kind = type(error).__name__
        code = StatusCode.UNKNOWN
        if isinstance(error, NotImplementedError):
            code = StatusCode.UNIMPLEMENTED
        message = f"{kind}: {error}"
        return Failure(code, message[:2000], {"type": kind, "traceback": shown[-16_000:]})
