"""`lattica dht`: what one puts or provides another finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.loopback.commands.commands import LISTEN, lattica, serving


def dht(data_dir: Path, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    done = lattica(data_dir, "dht", *arguments, "--json")
    return done.exit_code, list(map(json.loads, done.stdout.splitlines())), done.stderr


def test_what_one_command_stores_others_find(tmp_path: Path) -> None:
    with serving(tmp_path / "node", "node", "--listen", LISTEN) as ready:
        at = ("--connect", ready["addrs"][0])
        code, [put], _ = dht(tmp_path / "a", "put", "key", '{"step": 12}', *at)
        assert (code, put["peers"]) == (0, 1)
        code, [got], _ = dht(tmp_path / "b", "get", "key", "--owner", put["owner"], *at)
        assert (code, got["value"], got["owner"]) == (0, {"step": 12}, put["owner"])
        code, nothing, told = dht(tmp_path / "b", "get", "other", *at)
        assert (code, nothing) == (1, [])
        assert "other" in told
        with serving(tmp_path / "c", "dht", "provide", "gpu", "--listen", LISTEN, *at) as provided:
            code, [found], _ = dht(tmp_path / "b", "find", "gpu", *at)
            assert (code, found["peer_id"]) == (0, provided["peer_id"])
        assert dht(tmp_path / "b", "find", "gpu", *at)[:2] == (1, [])


def test_without_anybody_to_ask_it_is_said(tmp_path: Path) -> None:
    code, nothing, told = dht(tmp_path, "get", "key")
    assert (code, nothing) == (1, [])
    assert "--connect" in told
