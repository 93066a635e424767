"""A store whose process is killed, again and again, has what it has acknowledged."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lattica.crdt.entries.chain import verify_chain
from lattica.crdt.log.disk.replica import Replica
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, Writer

_WRITER = """
import sys
from pathlib import Path
from lattica.crdt.base.canonical import encode
from lattica.crdt.entries.header import Kind
from lattica.crdt.log.disk.replica import Replica
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC, START, Writer

replica = Replica(Path(sys.argv[1]), DOC, Identity(bytes(32)))
others = Writer(b"a").chain(500)
print("ready", flush=True)
for number in range(10**6):
    feed = replica.log.feeds.get(others[0].header.author)
    since = len(feed.ids) if feed else 0
    if since < len(others):
        replica.receive(others[since : since + 3], "peer", START + number, number / 1000)
    payload = encode(["key", "x" * (number % 50) * 100])
    items = [(Kind.REGISTER, payload)] * (1 + number % 3)
    for entry in replica.write(items, START + number).admitted:
        print(entry.header.author.hex(), entry.header.seq, entry.id.hex(), flush=True)
"""


def test_what_was_acknowledged_survives_sigkill_and_nobody_forks(tmp_path: Path):
    path = tmp_path / "document.sqlite3"
    rng = random.Random(1)
    acknowledged: dict[tuple[str, int], str] = {}
    for _ in range(8):
        kill_after = rng.randrange(1, 40)
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            lines = [child.stdout.readline() for _ in range(kill_after)]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        for line in lines:
            if not line.endswith("\n"):
                continue
            name, seq, entry_id = line.split()
            # The same place has never been acknowledged for anything else.
            assert acknowledged.setdefault((name, int(seq)), entry_id) == entry_id
    replica = Replica(path, DOC, Identity(bytes(32)))
    for (key, place), entry_id in acknowledged.items():
        assert replica.log.feeds[bytes.fromhex(key)].ids[place].hex() == entry_id
    assert len({key for key, _ in acknowledged}) == 1
    for author, feed in replica.log.feeds.items():
        entries = list(replica.database.entries(author, 0, len(feed.ids)))
        assert len(entries) == len(feed.ids)
        verify_chain(entries)
    others = Writer(b"a")
    assert len(replica.log.feeds[others.author].ids) > 8
    replica.close()


_AT_EACH_STATEMENT = """
import os, shutil, signal, sys
from pathlib import Path
from lattica.crdt.document.check import check_document
from lattica.crdt.document import Document
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt.chains import DOC

folder, what = Path(sys.argv[1]), sys.argv[2]
OWNERS = [Identity(bytes([number]) * 32) for number in (1, 2)]

def opened(name, number):
    return Document(folder / name, DOC, OWNERS[number])

with opened("one", 0) as one, opened("two", 1) as two:
    two.registers["mine"] = 1
    for number in range(6):
        one.registers["a"] = number
        one.registers["b"] = number
    parts, states = one.snapshot(), [one.root, two.root]
    chains = list(one.chains_since({}))
    if what == "receive":
        spare = Document(folder / "spare", DOC, OWNERS[1])
        for chain in [*two.chains_since({}), *chains]:
            spare.receive(chain, "peer")
        states.append(spare.root)
        spare.close()
    if what == "snapshot":
        one.prune(0.0)
        parts = one.snapshot()
        spare = Document(folder / "spare", DOC, OWNERS[1])
        for chain in two.chains_since({}):
            spare.receive(chain, "peer")
        spare.receive_snapshot(parts, [OWNERS[0].public_key.data])
        states.append(spare.root)
        spare.close()
    if what == "erase":
        one.registers["a"] = "secret"
        one.registers["a"] = 5
        former = [each for each in one.entries() if each.name == "a"][-2]
        states[0] = one.root
is_ones = what in ("prune", "erase")
source, number = ("one", 0) if is_ones else ("two", 1)
allowed = {states[0]} if is_ones else {states[1], states[2]}
seen, deaths = set(), 0
while True:
    target = folder / f"copy-{deaths}"
    shutil.copy(folder / source, target)
    pid = os.fork()
    if not pid:
        document = opened(target.name, number)
        left = deaths
        def trace(statement):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        document._replica.database._db.set_trace_callback(trace)
        if what == "prune":
            document.prune(0)
        elif what == "erase":
            document.erase(former)
        elif what == "receive":
            for chain in chains:
                document.receive(chain, "peer")
        else:
            document.receive_snapshot(parts, [OWNERS[0].public_key.data])
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    with opened(target.name, number) as document:
        assert document.root in allowed
        seen.add((document.root, len(list(document._replica.database.all_entries()))))
        if what == "erase":
            says_so = any(each.kind == "erase" for each in document.entries())
            left = b"".join(each.read_bytes() for each in folder.glob(f"{target.name}*"))
            assert (b"secret" in left) != says_so
        if is_ones:
            assert document.registers["a"] == document.registers["b"] == 5
        assert document.registers.get("mine") == (None if is_ones else 1)
    assert not check_document(target).problem_count
    if os.WIFEXITED(status):
        assert not os.WEXITSTATUS(status)
        break
    deaths += 1
print(deaths, len(seen))
"""


@pytest.mark.parametrize("what", ["prune", "snapshot", "receive", "erase"])
def test_a_sigkill_at_any_statement_leaves_all_or_nothing(tmp_path: Path, what: str):
    run = subprocess.run(
        [sys.executable, "-c", _AT_EACH_STATEMENT, str(tmp_path), what],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    deaths, outcomes = map(int, run.stdout.split())
    assert deaths > 8
    assert outcomes == 2
