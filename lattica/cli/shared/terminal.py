"""The only way by which the commands write to standard output and standard error.

Both are guarded: what is not printable is shown by its code (`lattica.nat.base.printable`), whoever
writes it, so that no text of a peer's drives the terminal. Only rich's own codes pass, and the
text between them does not. Imports nothing heavy.

What cannot be written any more is an :class:`OutputError` on standard output, and thrown away on
standard error, where there is no other place to say so.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from lattica.nat.base.errors import LatticaError
from lattica.nat.base.printable import json_text, printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text


def say(line: str, *, err: bool = False) -> None:
    """Write one line: line feeds in it are shown by their code, as what is not printable is."""
    print(printable(line), file=sys.stderr if err else sys.stdout, flush=True)


@contextmanager
def saying_without_waiting() -> Iterator[Callable[[str], None]]:
    """:func:`say` on standard error, for a block in which peers cause lines: whoever reads them may
    stall, and the node must not. What is not read is left out and counted
    (:class:`~lattica.line_writer.LineWriter`).
    """
    from lattica.line_writer import LineWriter

    try:
        descriptor = sys.stderr.fileno()
    except OSError:  # it was replaced by something in memory
        yield lambda line: say(line, err=True)
        return
    sys.stderr.flush()
    writer = LineWriter(
        descriptor, lambda count: f"{count:,} lines were left out here", sys.stderr.encoding
    )

    def write(line: str) -> None:
        with suppress(OSError):  # there is no other place to say so
            writer.write(printable(line))

    try:
        yield write
    finally:
        writer.close()


async def say_as_read(line: str) -> None:
    """:func:`say` on standard output, of a node's own command: whoever reads it may stall, so this
    waits until it is taken, and the node goes on meanwhile. For one task at a time.

    In the loop and not in a thread: one that waits in a write when Python ends has it abort.
    """
    import trio

    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # it was replaced by something in memory
        say(line)
        await trio.lowlevel.checkpoint()
        return
    sys.stdout.flush()
    left = f"{printable(line)}\n".encode(sys.stdout.encoding, "backslashreplace")
    ready = select.poll()
    ready.register(descriptor, select.POLLOUT)
    with output_errors():
        while left:
            if ready.poll(0):  # files always are, and cannot be waited for
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_writable(descriptor)
            with suppress(BlockingIOError):  # whoever started us has made it so
                left = left[os.write(descriptor, left[: select.PIPE_BUF]) :]


def say_json(value: object, *, indent: int | None = None) -> None:
    """Write a JSON value to standard output."""
    print(json_text(value, indent=indent), flush=True)


def say_traceback(error: BaseException) -> None:
    """Write the traceback of a bug to standard error; only its first line begins at the margin."""
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    print(*map(printable, lines), sep="\n  ", file=sys.stderr, flush=True)


class OutputError(LatticaError, OSError):
    """Standard output refuses what is written to it: a full disk, for instance."""


def open_missing_descriptors() -> None:
    """Let standard input, output and error that are closed (`>&-`) lead to nowhere.

    The first file or socket that is opened would get such a number otherwise, and what is printed
    would go there. The interpreter has no streams for them.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def throw_away(descriptor: int) -> None:
    """From now on what is written to standard output (1) or error (2) leads to nowhere.

    Also what has not left the stream yet: the interpreter flushes once more at its end.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


@contextmanager
def output_errors() -> Iterator[None]:
    """Standard output is written to here: what it refuses is an :class:`OutputError`.

    A reader that has gone away is none, but :class:`BrokenPipeError`.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        throw_away(1)
        raise OutputError(f"cannot write to standard output: {_reason(error)}") from None


@contextmanager
def _no_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        throw_away(2)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    return error.strerror or str(error)


class _Output:
    """A text stream whose errors mean what they mean for this one of the two."""

    def __init__(self, stream: TextIO, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._stream = stream
        self._errors = errors

    def write(self, text: str) -> int:
        with self._errors():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Guard:
    """A text stream that shows what is not printable by its code; all else is the stream's."""

    def __init__(self, stream: _Output) -> None:
        self.rich_proxied_file = stream
        """Where rich writes its codes. What it writes between them is guarded by `console`."""

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(printable_lines(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def _guard(stream: TextIO, errors: Callable[[], AbstractContextManager[None]]) -> TextIO:
    return stream if isinstance(stream, _Guard) else cast(TextIO, _Guard(_Output(stream, errors)))


def guard_output() -> None:
    """Guard standard output and error for the rest of the process."""
    sys.stdout, sys.stderr = _guard(sys.stdout, output_errors), _guard(sys.stderr, _no_errors)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guard standard output and error for a while."""
    before = sys.stdout, sys.stderr
    guard_output()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A rich console that takes text for what it is: no markup, no emoji codes, no escapes."""
    from rich.console import Console

    class GuardedConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            # Before it is measured.
            return super().render_str(printable_lines(text), **options)

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or segment.text.isprintable():
                    yield segment
                else:
                    yield segment._replace(text=printable_lines(segment.text))

    return GuardedConsole(
        stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=soft_wrap
    )
