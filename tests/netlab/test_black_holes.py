"""Paths that connect and do not carry: large packets are lost, and nobody says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.netlab.holders import require_root
from tools.netlab.runs.report import Report
from tools.netlab.runs.runner import Options, run_scenario
from tools.netlab.spec.fault import LinkChange
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.topology import Host, Link
from tools.netlab.spec.workload import FetchProgram, PublishProgram

VERBOSE = (("LATTICA_LOG_LEVEL", "debug"),)
TCP = "/ip4/0.0.0.0/tcp/4001"
QUIC = "/ip4/0.0.0.0/udp/4001/quic-v1/noise"
LINE = LinkSpec(delay_s=0.010, rate_bps=20e6)
CLEAR = Link(LINE, LINE)


def narrow(largest: int, *, up: bool = True, down: bool = True) -> Link:
    spec = LinkSpec(delay_s=0.010, rate_bps=20e6, largest=largest)
    return Link(spec if up else LINE, spec if down else LINE)


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


async def run(
    out: Path, link: Link, *faults: LinkChange, listen: tuple[str, ...], size_mib: float = 4
) -> tuple[Report, str]:
    """A fetch over `link`, the fetcher's line; the report, and the fetcher's log."""
    scenario = Scenario(
        "black-hole",
        hosts=(Host("mirror"), Host("phone", link=link)),
        programs=(
            PublishProgram("share", "mirror", size_mib=size_mib, listen=listen, env=VERBOSE),
            FetchProgram("get", "phone", "share", env=VERBOSE),
        ),
        faults=faults,
        duration_s=500.0,
    )
    report = await run_scenario(scenario, Options(out=out))
    logs = [(out / f"{name}.stderr.log").read_text() for name in ("share", "get")]
    return report, "\n".join(logs)


@pytest.mark.parametrize(
    "ways",
    [{}, {"down": False}],
    ids=["both", "up"],
)
async def test_tcp_that_connects_and_does_not_carry_is_left_for_quic(
    tmp_path, ways: dict[str, Any]
):
    # TCP connects, in a private network first; QUIC's smallest packets fit.
    report, log = await run(tmp_path, narrow(1240, **ways), listen=(TCP, QUIC))
    assert report.ok, log


async def test_tcp_alone_goes_on_with_small_segments(tmp_path):
    fault = LinkChange(at_s=3.0, node="phone", link=narrow(1000))
    report, log = await run(tmp_path, CLEAR, fault, listen=(TCP,), size_mib=16)
    assert report.ok, log
    assert "does not carry" in log


@pytest.mark.parametrize("ways", [{"down": False}, {}], ids=["up", "both"])
async def test_quic_sends_smaller_datagrams_from_the_middle_of_a_transfer_on(
    tmp_path, ways: dict[str, Any]
):
    fault = LinkChange(at_s=3.0, node="phone", link=narrow(1000, **ways), for_s=8.0)
    report, log = await run(tmp_path, CLEAR, fault, listen=(QUIC,), size_mib=24)
    assert report.ok, log
    # One connection, which both sides say once.
    assert log.count("connection ended") == 2, log
    assert "does not carry" not in log, log
    if ways != {"down": False}:  # requests are small
        assert "the path carries datagrams of 540 bytes now" in log, log
