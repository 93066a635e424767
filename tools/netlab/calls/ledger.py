"""What the counter's calls came to, from the files that both programs keep. Pure.

`attempts`: a token a line, before each call. `outcomes`: "token word", what the caller was told.
`executed`: "token life", each time that a handler has done its work; `life` tells one process of
the server from another. A program that is killed writes a line whole, or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

ATTEMPTS = "attempts"
OUTCOMES = "outcomes"
EXECUTED = "executed"
OK = "ok"
NOT_RUN = "not-run"
"""After the status code of a failure: the caller was told that nothing has run."""
MAY_HAVE_RUN = "may-have-run"
_MOST_NAMED = 3
"""Tokens that a complaint names."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Calls, counted."""

    attempted: int
    executed: int
    acknowledged: int
    """Those whose caller has the result."""
    failed: dict[str, int]
    """The others whose caller was told something, by what that was."""
    untold: int
    """Calls of a caller that was killed before it was told anything."""
    lives: int
    """Processes of the server that have executed something."""

    def as_json(self) -> dict[str, object]:
        """Plain JSON types."""
        return asdict(self)


def tally(
    attempts: Iterable[str], outcomes: Iterable[str], executed: Iterable[str]
) -> tuple[Tally, list[str]]:
    """The counts, and what is wrong: empty if every call ran at most once, those that are
    acknowledged did, and none did that was not attempted or of which the caller was told that it
    had not run.
    """
    attempted = Counter(line.strip() for line in attempts)
    told: dict[str, str] = {}
    told_twice = []
    for line in outcomes:
        token, _, word = line.strip().partition(" ")
        if token in told:
            told_twice.append(token)
        told[token] = word
    ran: Counter[str] = Counter()
    lives: set[str] = set()
    for line in executed:
        token, _, life = line.strip().partition(" ")
        ran[token] += 1
        lives.add(life)
    acknowledged = {token for token, word in told.items() if word == OK}
    failed = Counter(word for word in told.values() if word != OK)
    not_run = {token for token, word in told.items() if word.endswith(f" {NOT_RUN}")}
    complaints = [
        _complaint(tokens, text)
        for text, tokens in (
            ("were attempted twice", [token for token, n in attempted.items() if n > 1]),
            ("had two outcomes", told_twice),
            ("were executed twice", [token for token, n in ran.items() if n > 1]),
            ("were executed, but not attempted", sorted(ran.keys() - attempted.keys())),
            ("were acknowledged, but not executed", sorted(acknowledged - ran.keys())),
            ("were executed, though told not to have run", sorted(not_run & ran.keys())),
            ("had an outcome, but were not attempted", sorted(told.keys() - attempted.keys())),
        )
        if tokens
    ]
    counts = Tally(
        attempted=len(attempted),
        executed=len(ran),
        acknowledged=len(acknowledged),
        failed=dict(sorted(failed.items())),
        untold=len(attempted.keys() - told.keys()),
        lives=len(lives),
    )
    return counts, complaints


def _complaint(tokens: list[str], text: str) -> str:
    named = ", ".join(tokens[:_MOST_NAMED])
    more = ", …" if len(tokens) > _MOST_NAMED else ""
    return f"{len(tokens)} calls {text}: {named}{more}"


def read(caller: Path, server: Path) -> tuple[Tally, list[str]]:
    """:func:`tally` of the files in the folders of the two programs; one that is not there is
    empty.
    """
    return tally(_lines(caller / ATTEMPTS), _lines(caller / OUTCOMES), _lines(server / EXECUTED))


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
