"""The table of docs/guides/compat.md is what the probe gives."""

from __future__ import annotations

from pathlib import Path

from tests.loopback.lattica.compat.probe import probe

PAGE = Path(__file__).parents[4] / "docs" / "guides" / "compat.md"


def rows() -> list[tuple[str, str, str, str]]:
    """Case, the original's outcome, ours, and why it is another."""
    _, _, table = PAGE.read_text().partition("\n## The probe\n")
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    found = []
    for line in lines:
        case, original, ours, why = (part.strip() for part in line.strip("|").split(" | "))
        ours = original if ours == "-" else ours
        found.append((case, original.strip("`"), ours.strip("`"), why))
    return found


def test_the_table_is_what_the_probe_gives(tmp_path: Path) -> None:
    table = rows()
    assert [*probe(tmp_path)] == [(case, ours) for case, _, ours, _ in table]
    assert all((original == ours) == (why == "-") for _, original, ours, why in table)
