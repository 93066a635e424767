"""Limits that follow the descriptors of the process."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from lattica.nat.config import Limits
from lattica.nat.swarm.upkeep.descriptors import fitting, in_use, raise_limit


@pytest.mark.parametrize("descriptors", [256, 1024, 4096])
def test_connections_handshakes_files_and_dials_fit(descriptors):
    limits = fitting(Limits(), descriptors, used=40)
    reserve = descriptors - 40 - limits.max_connections - limits.max_pending_inbound
    assert reserve >= max(64, descriptors // 8)
    assert limits.max_connections > limits.max_pending_inbound > descriptors // 10


def test_with_enough_of_them_the_limits_stay():
    assert fitting(Limits(), 65536, used=100) == Limits()


def test_there_is_always_a_place():
    limits = fitting(Limits(), 64, used=60)
    assert (limits.max_connections, limits.max_pending_inbound) == (1, 1)


def test_those_in_use_are_counted():
    before = in_use()
    with open("/dev/null"):
        assert in_use() == before + 1


def test_the_soft_limit_is_raised_to_the_hard_one():
    program = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (100, 500));"
        "from lattica.nat.swarm.upkeep.descriptors import raise_limit;"
        "print(raise_limit(), r.getrlimit(r.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"500", b"500"]
    assert raise_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
