"""Handlers of the wrong kind are told where they are given, or else where they return."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from lattica.errors import LocalProtocolError
from lattica.nat.swarm.serving.handler_kind import (
    check_async_handler,
    check_plain_handler,
    require_awaitable,
    require_finished,
)


async def coroutine(stream: object) -> None: ...


def plain(stream: object) -> None: ...


def untyped(stream: Any) -> Any:
    return coroutine(stream)


def generator(stream: object) -> Iterator[None]:
    yield


async def async_generator(stream: object) -> AsyncIterator[None]:
    yield


class AsyncObject:
    async def __call__(self, stream: object) -> None: ...

    async def method(self, stream: object) -> None: ...

    @staticmethod
    async def static(stream: object) -> None: ...


class PlainObject:
    def __call__(self, stream: object) -> None: ...


ASYNC = [coroutine, AsyncObject(), AsyncObject().method, AsyncObject.static]
PLAIN = [plain, PlainObject(), PlainObject().__call__]


@pytest.mark.parametrize("wrap", [lambda handler: handler, partial])
@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [(check_async_handler, ASYNC, PLAIN), (check_plain_handler, PLAIN, ASYNC)],
)
def test_a_handler_of_the_other_kind_is_refused_and_the_right_class_named(
    check: Callable[[object], None], right: list[Any], wrong: list[Any], wrap: Any
) -> None:
    for handler in right:
        check(wrap(handler))
    for handler in wrong:
        with pytest.raises(LocalProtocolError, match="AsyncLattica take `async def` handlers"):
            check(wrap(handler))


@pytest.mark.parametrize("check", [check_async_handler, check_plain_handler])
def test_generators_are_no_handlers_and_what_does_not_show_is_taken(
    check: Callable[[object], None],
) -> None:
    generators: list[object] = [generator, async_generator, partial(generator)]
    for handler in generators:
        with pytest.raises(LocalProtocolError, match="yields"):
            check(handler)
    unseen: list[object] = [untyped, lambda stream: None, print]
    for handler in unseen:
        check(handler)


def test_what_a_handler_returns_tells_the_rest() -> None:
    with pytest.raises(TypeError, match="plain function"):
        require_awaitable(untyped.__doc__)
    for value in (None, 5, "done"):
        require_finished(value)
    for unrun in (coroutine(None), generator(None), async_generator(None)):
        with pytest.raises(TypeError, match="unrun"):
            require_finished(unrun)
