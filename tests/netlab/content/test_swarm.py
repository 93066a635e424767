"""Many who fetch the same from one source with a thin line: it sends little more than once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.netlab.holders import require_root
from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import LATTICA, Running
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.topology import Host, Link

MIB = 1 << 20
SIZE = 40 * MIB
LINE = LinkSpec(delay_s=0.010, rate_bps=32e6)
CONSUMERS = 8


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


async def sent(lab: Lab, node: str) -> int:
    """Bytes that a node has sent, with all headers."""
    status, out, errors = await lab.run(node, ["cat", "/proc/net/dev"])
    assert status == 0, errors
    lines = [line.split(":") for line in out.decode().splitlines() if ":" in line]
    return sum(int(fields.split()[8]) for name, fields in lines if name.strip() != "lo")


async def test_eight_consumers_and_one_source_with_a_thin_uplink(tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(random.Random(3).randbytes(SIZE))
    names = [f"c{number}" for number in range(CONSUMERS)]
    hosts = (Host("origin", link=Link(LINE, LINE)), *(Host(name) for name in names))
    results: dict[str, Any] = {}
    async with open_lab(Scenario("swarm", hosts=hosts)) as lab:
        listen = ["--listen", "/ip4/0.0.0.0/tcp/4001"]
        argv = [*LATTICA, "publish", str(source), "--json", *listen]
        publisher = await lab.start("origin", argv, name="publish")
        _, published = await publisher.wait_event(lambda event: "ticket" in event)

        async def fetch(name: str) -> None:
            argv = [*LATTICA, "fetch", published["ticket"], "-o", "out", "--json", *listen]
            running: Running = await lab.start(name, argv, name=name)
            _, results[name] = await running.wait_event(lambda event: "mb_per_s" in event)
            assert (running.folder / "out" / source.name).read_bytes() == source.read_bytes()

        before = await sent(lab, "origin")
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(fetch, name)
        uploaded = await sent(lab, "origin") - before
    print(f"the source has sent {uploaded / SIZE:.2f} times the file")
    assert uploaded <= 1.3 * SIZE
    # All have sent to others, and each has drawn on several.
    assert sum(result["bytes_shared"] for result in results.values()) > 5 * SIZE
    assert all(len(result["sources"]) > 2 for result in results.values())
