"""What names led to, in a file: for times when nobody can be asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lattica.content.hub.remembered import RememberedNames
from lattica.content.manifest.cid import Cid
from lattica.content.names.record import NameRecord, NameRef, NameTarget
from lattica.nat.base.keys.identity import Identity

OWNER = Identity.generate().peer_id
TARGET = NameTarget(Cid.of(b"manifest"), Cid.of(b"description"))


def record(number: int, sequence: int = 1) -> NameRecord:
    return NameRecord(OWNER, f"hf/m@{number}", TARGET, sequence, 1000.0)


def load(path: Path) -> RememberedNames:
    names = RememberedNames(path)
    names.load()
    return names


def test_what_was_put_last_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "directory" / "names.json"
    names = load(path)
    names.put(record(1))
    names.put(record(1, sequence=2))
    assert load(path).get(NameRef(OWNER, "hf/m@1")) == record(1, sequence=2)
    assert load(path).get(NameRef(OWNER, "hf/m@2")) is None


def test_several_threads_put_at_once(tmp_path: Path) -> None:
    """As clients ask for several revisions."""
    path = tmp_path / "names.json"
    names = load(path)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(names.put, map(record, range(50))))
    again = load(path)
    for number in range(50):
        assert again.get(NameRef(OWNER, f"hf/m@{number}")) == record(number)
    assert [each.name for each in tmp_path.iterdir()] == ["names.json"]


def test_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text('{"a": [1]}')
    assert load(path).get(NameRef(OWNER, "hf/m@1")) is None
