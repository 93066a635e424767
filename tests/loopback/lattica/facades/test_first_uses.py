"""What a facade needs of the package is not imported in trio's thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import contextlib, sys, tempfile
from pathlib import Path

import numpy as np
import trio

from lattica import Lattica, load_config


class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("lattica."):
            with contextlib.suppress(RuntimeError):
                trio.lowlevel.current_trio_token()
                print(name, "while", phase)


config = load_config(overrides={"listen": ["/ip4/127.0.0.1/tcp/0"]}, environment={})
with tempfile.TemporaryDirectory() as folder, Lattica(config) as one, Lattica(config) as two:
    two.connect(one.addrs[0], timeout=60)
    sys.meta_path.insert(0, Watch())
    phase = "publish"
    file = Path(folder, "file")
    file.write_bytes(bytes(100))
    ticket = one.publish(file)
    phase = "fetch"
    two.fetch(ticket, Path(folder, "out"), timeout=60)
    phase = "publish_state_dict"
    ticket = one.publish_state_dict({"w": np.ones(3)}, "checkpoint")
    phase = "load_state_dict"
    two.load_state_dict(ticket, {"w": np.zeros(3)}, timeout=60)
    phase = "dht"
    with contextlib.suppress(TimeoutError):
        one.dht.get("key", timeout=0)
    phase = "rpc"
    one.rpc.serve(type("Echo", (), {"shout": lambda self: None})())
    phase = "topic"
    one.topic("news").publish(b"x")
    phase = "documents"
    one.documents.create("x")
    phase = "weights"
    with one.publish_weights("policy") as publisher:
        publisher.push({"w": np.ones(3)})
"""


def test_first_uses_of_a_facade_import_nothing_in_trios_thread(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,  # where the state dict is written to
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
