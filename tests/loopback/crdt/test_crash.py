"""A store whose process is killed, again and again, has what it has acknowledged."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from lattica.crdt.entries.chain import verify_chain
from lattica.crdt.log.replica import Replica
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt_chains import DOC, Writer

_WRITER = """
import sys
from pathlib import Path
from lattica.crdt.canonical import encode
from lattica.crdt.entries.header import Kind
from lattica.crdt.log.replica import Replica
from lattica.nat.base.keys.identity import Identity
from tests.support.crdt_chains import DOC, START, Writer

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
