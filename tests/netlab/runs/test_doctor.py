"""`lattica doctor` behind real NATs, with real relays to ask."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.netlab.holders import require_root
from tools.netlab.runs.runner import Options, run_scenario
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Relay, Router
from tools.netlab.spec.workload import CommandProgram

LATTICA = ("{python}", "-c", "from lattica.cli import main; main()")
RELAYS = ("relay", "relay-2")
EXPECTED = {
    "port-restricted": ("endpoint-independent", "address-and-port-dependent", "ok", "ok"),
    "symmetric-random": (
        "address-and-port-dependent",
        "address-and-port-dependent",
        "warn",
        "ok",
    ),
    "udp-blocked": (None, None, "unknown", "bad"),
}
"""NAT type: mapping, filtering, state of the findings on the NAT and on UDP."""


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def scenario() -> Scenario:
    asked = tuple(part for name in RELAYS for part in ("--relay", f"{{addr:{name}}}"))
    return Scenario(
        name="doctor",
        about="Three machines ask what kind of NAT they are behind.",
        hosts=tuple(Host(f"host-{nat}", behind=f"nat-{nat}") for nat in EXPECTED),
        routers=tuple(Router(f"nat-{nat}", nat=NAMES[nat]) for nat in EXPECTED),
        relays=tuple(Relay(name) for name in RELAYS),
        programs=tuple(
            CommandProgram(
                nat,
                f"host-{nat}",
                argv=(*LATTICA, "doctor", *asked, "--json", "--wait", "60"),
                after=RELAYS,
                timeout_s=300,
            )
            for nat in EXPECTED
        ),
        duration_s=400,
    )


async def test_it_knows_the_nat_and_says_what_to_do(tmp_path):
    report = await run_scenario(scenario(), Options(out=tmp_path))
    # Exit status 3: the row about UDP is a bad one.
    assert {o.program: o.ok for o in report.outcomes if o.program in EXPECTED} == {
        nat: udp_state != "bad" for nat, (_, _, _, udp_state) in EXPECTED.items()
    }, report
    for nat, (mapping, filtering, nat_state, udp_state) in EXPECTED.items():
        said: dict[str, Any] = json.loads((tmp_path / f"{nat}.stdout.log").read_text())
        assert said["nat"]["ipv4"]["mapping"] == mapping
        assert said["nat"]["ipv4"]["filtering"] == filtering
        findings = {finding["topic"]: finding for finding in said["findings"]}
        assert findings["UDP"]["state"] == udp_state, findings["UDP"]
        if "NAT" in findings:
            assert findings["NAT"]["state"] == nat_state, findings["NAT"]
        assert findings["relays"]["state"] == "ok"
        assert len(said["relays"]) == 2
        assert all(relay["reserved"] for relay in said["relays"])
        assert "UPnP" in findings["port mapping"]["advice"]
