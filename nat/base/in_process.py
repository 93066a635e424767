"""What lives in one process, and cannot be handed to another."""

from __future__ import annotations

from typing import ClassVar, NoReturn


class InProcess:
    """Base of what pickling or copying could only break; says so, and what to do instead."""

    __slots__ = ()

    instead: ClassVar[str] = "it holds sockets and threads of this process"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled, copied or sent to another process: "
            f"{self.instead} (docs/guides/programs.md)"
        )


class NodeInProcess(InProcess):
    """The same of a node."""

    __slots__ = ()

    instead: ClassVar[str] = (
        "it holds sockets and threads of this one; make one in each process, from a configuration "
        "and addresses, which can be pickled"
    )
