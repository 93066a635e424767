"""Times of other clocks, for a person."""

from __future__ import annotations

import pytest

from lattica.cli.crdt.proofs import clock_time


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (1795959743789, "2026-11-29 13:42:23 UTC"),
        (0, "1970-01-01 00:00:00 UTC"),
        (2**63, f"{2**63} ms"),
    ],
)
def test_a_time_is_a_date_where_there_is_one(milliseconds: int, expected: str) -> None:
    assert clock_time(milliseconds) == expected
