"""`lattica key`: made, shown and replaced, and never lost."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from typer.testing import CliRunner

from lattica.cli import app
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.key_lock import KeyLock


def lattica(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout.strip(), result.stderr


def test_new_and_show(tmp_path: Path) -> None:
    file = tmp_path / "my.key"
    code, text, _ = lattica("key", "new", file)
    assert code == 0
    assert text == str(Identity.load(file).peer_id)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert lattica("key", "new", file)[0] == 1  # never overwritten
    code, text, _ = lattica("key", "show", "--identity", file, "--json")
    assert json.loads(text) == {
        "peer_id": str(Identity.load(file).peer_id),
        "key_file": str(file),
    }


def test_show_makes_none(tmp_path: Path) -> None:
    code, _, error = lattica("--data-dir", tmp_path, "key", "show")
    assert code == 1
    assert "identity.key yet: `lattica id` makes it" in error
    assert list(tmp_path.iterdir()) == []


def test_rotate_keeps_the_old_key(tmp_path: Path) -> None:
    file = tmp_path / "identity.key"
    lattica("key", "new", file)
    old = Identity.load(file).peer_id
    (tmp_path / "identity.key.new").write_bytes(b"of a rotation that was cut off")
    code, text, _ = lattica("--data-dir", tmp_path, "key", "rotate", "--json")
    assert code == 0
    said = json.loads(text)
    assert said["old_peer_id"] == str(old) != said["peer_id"]
    assert str(Identity.load(file).peer_id) == said["peer_id"]
    assert Identity.load(said["old_key_file"]).peer_id == old
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        [file.name, Path(said["old_key_file"]).name]
    )


def test_a_key_in_use_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "identity.key"
    lattica("key", "new", file)
    identity = Identity.load(file)
    with KeyLock(file, identity):
        code, _, error = lattica("--data-dir", tmp_path, "key", "rotate")
    assert code == 1
    assert "in use" in error
    assert Identity.load(file).peer_id == identity.peer_id


def test_a_token_of_a_new_key_says_so(tmp_path: Path) -> None:
    """It was given in another data directory than the relay's, and of use to nobody."""
    command = ("--data-dir", tmp_path, "relay", "token", "new", Identity.generate().peer_id)
    code, _, error = lattica(*command)
    assert code == 0
    assert f"made a new key in {tmp_path / 'identity.key'}" in error
    assert "new key" not in lattica(*command)[2]
