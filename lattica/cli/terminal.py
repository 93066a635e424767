"""The only way by which the commands write to standard output and standard error.

Both are guarded: what is not printable is shown by its code (`lattica.nat.base.printable`), whoever
writes it, so that no text of a peer's drives the terminal. Only rich's own codes pass, and the
text between them does not. Imports nothing heavy.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from lattica.nat.base.printable import json_text, printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text


def say(line: str, *, err: bool = False) -> None:
    """Write one line: line feeds in it are shown by their code, as what is not printable is."""
    print(printable(line), file=sys.stderr if err else sys.stdout, flush=True)


def say_json(value: object, *, indent: int | None = None) -> None:
    """Write a JSON value to standard output."""
    print(json_text(value, indent=indent), flush=True)


def say_traceback(error: BaseException) -> None:
    """Write the traceback of a bug to standard error; only its first line begins at the margin."""
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    print(*map(printable, lines), sep="\n  ", file=sys.stderr, flush=True)


class _Guard:
    """A text stream that shows what is not printable by its code; all else is the stream's."""

    def __init__(self, stream: TextIO) -> None:
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


def _guard(stream: TextIO) -> TextIO:
    return stream if isinstance(stream, _Guard) else cast(TextIO, _Guard(stream))


def guard_output() -> None:
    """Guard standard output and error for the rest of the process."""
    sys.stdout, sys.stderr = _guard(sys.stdout), _guard(sys.stderr)


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
