"""What a fuzz target is, and the one judgement of whether an input made it misbehave."""

from __future__ import annotations

import signal
import threading
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

KIB = 1024
MIB = 1024 * KIB


class Violation(AssertionError):
    """A target's decoder kept running, but its result or state is wrong."""


class Hang(BaseException):
    """One input used more processor time than its target allows.

    Not an `Exception`, so that no decoder catches it.
    """


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder under test.

    Args:
        name: what the command line calls it.
        run: feeds its input to the decoder; raises what the decoder raises, and
            :class:`Violation` when the outcome is inconsistent.
        allowed: the errors the decoder documents for bad input.
        seeds: valid or nearly valid inputs that mutation starts from.
        tokens: byte strings that mean something to the decoder.
        max_size: longest input that is generated, bytes.
        max_seconds: processor time one input may use.
        max_memory: bytes Python may have allocated on top while one input is decoded.
    """

    name: str
    run: Callable[[bytes], None]
    allowed: tuple[type[Exception], ...]
    seeds: Sequence[bytes] = (b"",)
    tokens: Sequence[bytes] = ()
    max_size: int = 4 * KIB
    max_seconds: float = 2.0
    max_memory: int = 16 * MIB


@dataclass(frozen=True, slots=True)
class Crash:
    """An input that made a target misbehave. `signature` is the same for the same bug."""

    target: str
    data: bytes
    signature: tuple[str, str]
    report: str = field(compare=False)


def try_input(target: Target, data: bytes, *, measure_memory: bool = False) -> Crash | None:
    """Run one input; None if the target behaved.

    Measuring memory makes Python several times slower, so callers do it for a sample.
    """
    try:
        with _processor_time(target.max_seconds):
            if measure_memory:
                peak = _peak_memory(target, data)
                if peak > target.max_memory:
                    raise Violation(
                        f"{len(data)} bytes of input made it allocate {peak} bytes, "
                        f"where {target.max_memory} are allowed"
                    )
            else:
                run_input(target, data)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a Rust panic is a BaseException too
        where = _innermost(error)
        report = "".join(traceback.format_exception(error))
        return Crash(target.name, data, (type(error).__name__, where), report)
    return None


def run_input(target: Target, data: bytes) -> None:
    """Run one input; documented errors are none. Raises what else comes out."""
    try:
        target.run(data)
    except Violation:
        raise
    except target.allowed:
        pass


def _peak_memory(target: Target, data: bytes) -> int:
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        run_input(target, data)
        _, peak = tracemalloc.get_traced_memory()
        return peak - before
    finally:
        if not already:
            tracemalloc.stop()


@contextmanager
def _processor_time(seconds: float) -> Iterator[None]:
    """Raise :class:`Hang` after so much processor time of this process.

    Not wall time: a busy machine must not look like a hanging decoder. Only the main thread
    of a POSIX system can be interrupted; elsewhere nothing is limited.
    """
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Hang(f"more than {seconds} s of processor time")

    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def _innermost(error: BaseException) -> str:
    """Where the error began: the last of our own lines, which names the bug best."""
    if isinstance(error, Hang):
        return "hang"  # where it was interrupted is chance
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    last = ours[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
