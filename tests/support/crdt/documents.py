"""Documents in files of a test, by a clock that goes on as they are used."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lattica.crdt.document import Document
from lattica.crdt.entries.genesis import Genesis
from lattica.crdt.entries.header import Entry, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, START

Make = Callable[..., Document]
"""Opens a document of an identity; see :func:`making`."""


class Clock:
    """Milliseconds since 1970, one more each time that somebody looks."""

    ms = START + 1_000_000

    def __call__(self) -> int:
        self.ms += 1
        return self.ms


@contextmanager
def replicas(
    folder: Path, identities: Iterable[Identity], clock: Clock
) -> Iterator[list[Document]]:
    """One of `DOC` for each identity, in files `0`, `1` and so on."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(Document(folder / f"{number}", DOC, identity, wall=clock))
            for number, identity in enumerate(identities)
        ]


@contextmanager
def making(folder: Path, clock: Callable[[], int], default: Genesis = DOC) -> Iterator[Make]:
    """A function that opens documents, each in a file of its own unless told, until the end."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def document(
            identity: Identity,
            genesis: Genesis = default,
            path: Path | None = None,
            wall: Callable[[], int] = clock,
        ) -> Document:
            path = path or folder / f"{next(numbers)}.sqlite3"
            return stack.enter_context(Document(path, genesis, identity, wall=wall))

        yield document


def sign_next(
    document: Document, kind: Kind, payload: bytes, hlc: Callable[[], int] | None = None
) -> Entry | None:
    """An entry behind all that a document's own session has written, as somebody makes it with that
    key by himself; None: it has written nothing. By default just after the newest.
    """
    session, heads = document._replica._session, document.heads()
    if session is None or session.author not in heads:
        return None
    length, newest = heads[session.author]
    time = document._replica.log.feeds[session.author].hlc + 1 if hlc is None else hlc()
    return sign_entry(session, document.genesis.doc_id, length, newest, time, kind, payload)
