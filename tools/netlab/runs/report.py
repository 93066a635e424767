"""What came of a run: the result, its JSON form and its table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tools.netlab.runs.mesh import Path

MAX_DETAIL = 240


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one program.

    detail: what it did, or why it failed. seconds: from its start to its success or failure.
    values: measured, e.g. "mb_per_s".
    """

    program: str
    host: str
    kind: str
    ok: bool
    detail: str
    seconds: float
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a scenario. paths: connections between programs, by pair and kind."""

    scenario: str
    outcomes: tuple[Outcome, ...]
    paths: tuple[Path, ...]
    faults: tuple[tuple[float, str], ...]
    seconds: float
    complaints: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every program succeeded."""
        return all(outcome.ok for outcome in self.outcomes) and not self.complaints

    def outcome(self, program: str) -> Outcome:
        """KeyError if there is no such program."""
        for outcome in self.outcomes:
            if outcome.program == program:
                return outcome
        raise KeyError(program)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "scenario": self.scenario,
            "ok": self.ok,
            "seconds": self.seconds,
            "programs": [asdict(outcome) for outcome in self.outcomes],
            "paths": [asdict(path) for path in self.paths],
            "faults": [{"t": t, "what": what} for t, what in self.faults],
            "complaints": list(self.complaints),
        }

    def as_table(self) -> Group:
        """For a terminal."""
        table = Table(title=f"{self.scenario}: {'ok' if self.ok else 'failed'}")
        for column in ("program", "on", "kind", "", "what came of it"):
            table.add_column(column)
        table.add_column("s", justify="right")
        for outcome in self.outcomes:
            mark = Text("ok", "green") if outcome.ok else Text("failed", "red")
            table.add_row(
                outcome.program,
                outcome.host,
                outcome.kind,
                mark,
                Text(_short(outcome.detail)),
                f"{outcome.seconds:.1f}",
            )
        lines = [Text(f"{t:7.1f} s  {what}") for t, what in self.faults]
        lines += [Text(complaint, "red") for complaint in self.complaints]
        return Group(table, *lines)


def _short(text: str) -> str:
    """One paragraph of at most :data:`MAX_DETAIL` characters; the end says most."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_DETAIL else f"{text[:60]} … {text[60 - MAX_DETAIL :]}"
