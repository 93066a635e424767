"""The netem script: what it tells tc, and that it is a shell script that runs.

Nothing here needs root: `tc` and `ip` are scripts that write down what they were asked.
"""

from __future__ import annotations

import subprocess

import pytest

from tools.netlab.runs.netem import arguments, script
from tools.netlab.spec.fault import LinkChange, LinkDown
from tools.netlab.spec.link import BurstLoss, LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.scenario import load, shipped
from tools.netlab.spec.topology import Host, Link


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (LinkSpec(), "rate 0bit limit 1000"),
        (LinkSpec(delay_s=0.05), "delay 50ms rate 0bit limit 4129"),
        # Only with a rate does netem keep the order of packets whose delays vary.
        (
            LinkSpec(delay_s=0.05, jitter_s=0.002),
            "delay 50ms 2ms rate 100000000000bit limit 4129",
        ),
        (
            LinkSpec(delay_s=0.05, jitter_s=0.002, rate_bps=1e6),
            "delay 50ms 2ms rate 1000000bit limit 21",
        ),
        (
            LinkSpec(delay_s=0.05, jitter_s=0.002, jitter_shape="normal", jitter_reorders=True),
            "delay 50ms 2ms distribution normal rate 0bit limit 4129",
        ),
        (LinkSpec(loss=0.001), "loss random 0.1% rate 0bit limit 1000"),
        (
            LinkSpec(burst=BurstLoss(enter=0.01, leave=0.25)),
            "loss gemodel 1% 25% 100% 0% rate 0bit limit 1000",
        ),
        (
            LinkSpec(loss=0.5, burst=BurstLoss(enter=0.01, leave=0.25, loss_bad=0.5)),
            "loss gemodel 1% 25% 75% 50% rate 0bit limit 1000",
        ),
        (
            LinkSpec(delay_s=0.01, reorder=0.02, duplicate=0.03),
            "delay 10ms reorder 2% duplicate 3% rate 0bit limit 1000",
        ),
        # 100 packets wait, and 100 more are on their way.
        (
            LinkSpec(delay_s=0.1, rate_bps=12_112_000, queue_bytes=151_400),
            "delay 100ms rate 12112000bit limit 200",
        ),
    ],
)
def test_one_direction(spec, words):
    assert arguments(spec) == words


class Shell:
    """Runs a script with tools that write down what they are told."""

    def __init__(self, folder, scenario):
        self.folder = folder
        self.log = folder / "log"
        self.script = folder / "netem.sh"
        self.script.write_text(script(scenario))
        for tool in ("tc", "ip", "sleep"):
            fake = folder / tool
            fake.write_text(f'#!/bin/sh\necho {tool} "$@" >> "{self.log}"\n')
            fake.chmod(0o755)

    def __call__(self, *arguments):
        self.log.write_text("")
        done = subprocess.run(
            ["/bin/sh", str(self.script), *arguments],
            env={"PATH": f"{self.folder}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done, self.log.read_text().splitlines()


FAST = Link(LinkSpec(delay_s=0.01), LinkSpec(delay_s=0.02, jitter_s=0.001))
VARIED = Link(LinkSpec(delay_s=0.01, jitter_s=0.001, jitter_shape="normal"), LinkSpec())
SLOW = Link(LinkSpec(rate_bps=1e6), LinkSpec(rate_bps=1e6))


@pytest.fixture
def shell(tmp_path):
    return Shell(
        tmp_path,
        Scenario(
            "test",
            hosts=(Host("a", link=FAST), Host("b")),
            faults=(LinkDown(2, "a", for_s=1), LinkDown(2, "b"), LinkChange(5, "a", SLOW)),
        ),
    )


def test_apply_to_a_router(shell):
    done, commands = shell("apply", "a", "wan0", "lan0")
    assert done.returncode == 0, done.stderr
    assert commands == [
        "tc qdisc del dev wan0 root",
        "tc qdisc del dev lan0 root",
        "tc qdisc replace dev wan0 root handle 1: netem delay 10ms rate 0bit limit 1000",
        f"tc qdisc replace dev lan0 root handle 1: netem {arguments(FAST.down)}",
    ]


def test_apply_to_a_host_with_one_device(shell):
    done, commands = shell("apply", "a", "eth0")
    assert done.returncode == 0, done.stderr
    assert "tc qdisc replace dev eth0 ingress" in commands
    assert any("netem delay 20ms" in line and "dev ifb-eth0" in line for line in commands)


def test_play_does_the_faults_of_that_link_in_time(shell):
    done, commands = shell("play", "a", "wan0", "lan0")
    assert done.returncode == 0, done.stderr
    assert commands[4:] == [
        "sleep 2",
        "tc qdisc replace dev wan0 root handle 1: netem loss random 100% limit 1000",
        "tc qdisc replace dev lan0 root handle 1: netem loss random 100% limit 1000",
        "sleep 1",
        "tc qdisc replace dev wan0 root handle 1: netem delay 10ms rate 0bit limit 1000",
        f"tc qdisc replace dev lan0 root handle 1: netem {arguments(FAST.down)}",
        "sleep 2",
        "tc qdisc replace dev wan0 root handle 1: netem rate 1000000bit limit 16",
        "tc qdisc replace dev lan0 root handle 1: netem rate 1000000bit limit 16",
    ]


def test_a_distribution_does_not_stick(tmp_path):
    faults = (LinkChange(1, "a", VARIED, for_s=1),)
    shell = Shell(tmp_path, Scenario("test", hosts=(Host("a", link=FAST),), faults=faults))
    done, commands = shell("play", "a", "wan0", "lan0")
    assert done.returncode == 0, done.stderr
    assert commands[4:] == [
        "sleep 1",
        f"tc qdisc replace dev wan0 root handle 1: netem {arguments(VARIED.up)}",
        f"tc qdisc replace dev lan0 root handle 1: netem {arguments(VARIED.down)}",
        "sleep 1",
        "tc qdisc del dev wan0 root",
        f"tc qdisc replace dev wan0 root handle 1: netem {arguments(FAST.up)}",
        f"tc qdisc replace dev lan0 root handle 1: netem {arguments(FAST.down)}",
    ]


def test_clear(shell):
    done, commands = shell("clear", "wan0", "lan0")
    assert done.returncode == 0, done.stderr
    assert "tc qdisc del dev wan0 root" in commands
    assert "tc qdisc del dev lan0 root" in commands


@pytest.mark.parametrize("arguments", [(), ("dance",), ("apply", "a"), ("apply", "c", "eth0")])
def test_misuse_is_explained(shell, arguments):
    done, commands = shell(*arguments)
    assert done.returncode == 2
    assert "usage" in done.stdout or "there are: a b" in done.stderr
    assert not any("netem" in line for line in commands)


@pytest.mark.parametrize("name", shipped())
def test_shipped_scenarios(tmp_path, name):
    scenario = load(shipped()[name])
    shell = Shell(tmp_path, scenario)
    done, _ = shell("list")
    assert done.returncode == 0, done.stderr
    for node in scenario.nodes:
        assert f"{node.name}:" in done.stdout
        done_with, commands = shell("play", node.name, "eth0")
        assert done_with.returncode == 0, done_with.stderr
        assert any("netem" in line for line in commands)
