"""QUIC where it has to prove itself: on a path that loses packets, and on one that changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.netlab.holders import require_root
from tools.netlab.runs.report import Report
from tools.netlab.runs.runner import Options, run_scenario
from tools.netlab.spec.fault import AddressChange, Handover, NatReboot
from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Link, Router
from tools.netlab.spec.workload import FetchProgram, PublishProgram

VERBOSE = (("LATTICA_LOG_LEVEL", "debug"),)
QUIC = ("/ip4/0.0.0.0/udp/4002/quic-v1/noise",)


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


async def run(scenario: Scenario, out: Path) -> tuple[Report, str]:
    """The report, and the publisher's log."""
    report = await run_scenario(scenario, Options(out=out))
    return report, (out / "share.stderr.log").read_text()


def download(size_mib: float, **fields: Any) -> Scenario:
    return Scenario(
        "quic",
        programs=(
            PublishProgram("share", "mirror", size_mib=size_mib, listen=QUIC, env=VERBOSE),
            FetchProgram("get", "phone", "share"),
        ),
        duration_s=500.0,
        **fields,
    )


async def test_a_path_that_loses_packets(tmp_path):
    lossy = LinkSpec(delay_s=0.020, rate_bps=100e6, loss=0.02)
    hosts = (Host("mirror"), Host("phone", link=Link(lossy, lossy)))
    report, log = await run(download(8, hosts=hosts), tmp_path)
    assert report.ok, log


async def test_a_download_survives_every_change_of_address(tmp_path):
    line = LinkSpec(delay_s=0.010, rate_bps=10e6)
    slow = Link(line, line)
    report, log = await run(
        # At 10 Mbit/s it goes on for 6 s after the last fault.
        download(
            24,
            routers=(
                Router("home", nat=NAMES["port-restricted"]),
                Router("carrier", nat=NAMES["cgnat"]),
            ),
            hosts=(
                Host("mirror"),
                Host("phone", behind="home", link=slow, standby="carrier", standby_link=slow),
            ),
            faults=(
                NatReboot(at_s=2.0, router="home"),
                AddressChange(at_s=5.0, node="home"),
                Handover(at_s=8.0, host="phone"),
                NatReboot(at_s=11.0, router="carrier"),
                Handover(at_s=14.0, host="phone"),
            ),
        ),
        tmp_path,
    )
    assert report.ok, log
    # One connection through it all. (After its reboot a port-preserving NAT is as it was before.)
    assert log.count("peer moved") == 4, log
    assert log.count("connection ended") <= 1, log
