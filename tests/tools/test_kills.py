"""`python -m tools.kills` in its short form: a few SIGKILLs of either side, then the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.kills.kills import KillsError, digests, kill_at_random


@pytest.mark.slow
async def test_whoever_is_killed_the_bytes_are_the_same(tmp_path: Path) -> None:
    killed = await kill_at_random(tmp_path, kills=4, seed=3, mib=12, say=print)
    assert killed.kills.total() == 4
    assert killed.rounds
    assert digests(tmp_path / "source")


async def test_other_bytes_are_told(tmp_path: Path) -> None:
    from tools.kills import kills

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("b")
    with pytest.raises(KillsError, match="not what was published: a"):
        kills._compare({"a": "0"}, tmp_path / "out")
    (tmp_path / "out" / ".lattica-1").mkdir()
    with pytest.raises(KillsError, match="left behind"):
        kills._compare(digests(tmp_path / "out"), tmp_path / "out")
