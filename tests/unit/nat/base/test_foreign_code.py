"""What may pass of what handlers raise, and texts that cannot be had."""

from __future__ import annotations

import asyncio
import gc
import signal
import weakref
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from lattica.nat.base.foreign_code import described, parted, settle, text_of
from lattica.nat.base.printable import encodable


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Leaver(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def test_texts_can_be_encoded_whatever_they_are() -> None:
    assert text_of(ValueError("cannot open caf\udce9.bin")) == "cannot open caf\\udce9.bin"
    assert encodable("caf\xe9 \U0001f600") == "caf\xe9 \U0001f600"
    assert text_of(Mute()) == "<a Mute without text>"
    assert described(Leaver()) == "Leaver: <a Leaver without text>"
    assert described(SystemExit(3)) == "SystemExit: 3"
    assert described(ValueError()) == "ValueError"


def _raised(raise_it: Callable[[], object]) -> BaseException:
    try:
        raise_it()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException]
)
async def test_what_a_handler_raises_is_its_own(kind: type[BaseException]) -> None:
    def handler() -> None:
        raise kind

    error = _raised(handler)
    assert parted(error) == (None, error)
    assert parted(await trio.to_thread.run_sync(_raised, handler))[0] is None


async def test_a_cancellation_passes_also_out_of_a_group() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(trio.Cancelled) as caught:
            await trio.sleep(0)
    error = caught.value
    assert parted(error) == (error, None)
    passing, own = parted(BaseExceptionGroup("", [error, SystemExit(1)]))
    assert isinstance(passing, BaseExceptionGroup)
    assert passing.exceptions == (error,)
    assert isinstance(own, BaseExceptionGroup)
    assert isinstance(own.exceptions[0], SystemExit)


@pytest.fixture
def sigint() -> Iterator[None]:
    """As a program begins: runners of tests ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_passes() -> None:
    async def main() -> None:
        error = _raised(lambda: signal.raise_signal(signal.SIGINT))
        assert isinstance(error, KeyboardInterrupt)
        assert parted(error) == (error, None)

        def handler() -> None:
            raise KeyboardInterrupt

        error = _raised(handler)
        assert parted(error) == (None, error)

    trio.run(main)


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_passes_where_its_handler_leaves_no_trace() -> None:
    error = _raised(lambda: signal.raise_signal(signal.SIGINT))
    assert isinstance(error, KeyboardInterrupt)
    assert parted(error) == (error, None)


async def test_what_is_settled_is_freed_without_the_collector() -> None:
    class Held:
        pass

    async def task(handler: Callable[[Held], object]) -> weakref.ref[Held]:
        held = Held()
        seen = weakref.ref(held)
        try:
            handler(held)
            await trio.sleep(0)
        except BaseException as error:
            settle(error, reported.append)
        return seen

    def fails(held: Held) -> None:
        raise SystemExit(held)

    reported: list[BaseException] = []
    gc.collect()
    gc.disable()
    try:
        failed = await task(fails)
        assert failed() is not None
        [own] = reported
        assert isinstance(own, SystemExit)
        del own
        reported.clear()
        assert failed() is None

        refs: list[weakref.ref[Held]] = []

        async def cancelled() -> None:
            held = Held()
            refs.append(weakref.ref(held))
            try:
                await trio.sleep_forever()
            except BaseException as error:
                settle(error, reported.append)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelled)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not reported
        assert [ref() for ref in refs] == [None]
    finally:
        gc.enable()
