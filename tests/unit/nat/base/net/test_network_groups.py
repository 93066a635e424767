"""What counts as one network, and how much of something it gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.limits.token_bucket import TokenBucket, take
from lattica.nat.base.net.network_groups import NetworkRates, NetworkSlots, host_of, network_of
from tests.support.clock import Clock


@pytest.mark.parametrize(
    ("ip", "network", "host"),
    [
        ("203.0.113.7", "203.0.113.0/24", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.0/24", "203.0.113.7"),
        ("2001:db8:1:2:3::7", "2001:db8:1::/48", "2001:db8:1:2::/64"),
        ("fe80::7%eth0", "fe80::/48", "fe80::/64"),
    ],
)
def test_networks_and_hosts(ip, network, host):
    assert network_of(ip) == network
    assert host_of(ip) == host


@given(st.ip_addresses(), st.ip_addresses())
def test_who_is_in_one_network_shares_a_slot(one, other):
    slots = NetworkSlots(1 << 30, rng=bytes)
    same = network_of(one) == network_of(other)
    assert (slots.slot_of(str(one)) == slots.slot_of(str(other))) == same


def test_slots_are_secret():
    hosts = [f"10.{n}.0.1" for n in range(64)]
    one, other = NetworkSlots(1024), NetworkSlots(1024)
    assert [*map(one.slot_of, hosts)] != [*map(other.slot_of, hosts)]
    assert all(0 <= one.slot_of(host) < 1024 for host in hosts)


def rates(clock: Clock, **changes: float) -> NetworkRates:
    arguments = {"per_second": 2, "burst": 3, "total_per_second": 100, **changes}
    return NetworkRates(clock, rng=bytes, **arguments)


def test_a_network_has_a_burst_and_a_rate():
    clock = Clock()
    limit = rates(clock)
    assert [limit.take(f"198.51.100.{n}") for n in range(5)] == [True] * 3 + [False] * 2
    clock.now += 1.0
    assert [limit.take("198.51.100.1") for _ in range(3)] == [True, True, False]
    assert limit.take("198.51.101.1")
    clock.now += 100.0
    assert not limit.take("198.51.100.1", 4.0)
    assert limit.take("198.51.100.1", 3.0)


def test_mapped_and_scoped_addresses_are_known():
    limit = rates(Clock(), burst=1)
    assert limit.take("198.51.100.1")
    assert not limit.take("::ffff:198.51.100.2")
    assert limit.take("fe80::1%eth0")
    assert not limit.take("fe80::2")


def test_all_networks_together_have_a_rate():
    limit = rates(Clock(), total_per_second=50)
    assert sum(limit.take(f"198.{n}.1.1") for n in range(200)) == 50


def test_several_buckets_pay_together_or_not_at_all():
    small, large = TokenBucket(2, 1), TokenBucket(10, 0.5)
    assert take([small, large], 2, 0.0)
    assert not small.is_full
    assert not take([small, large], 2, 1.0)
    assert (small.level, large.level) == (1, 8.5)
    assert take([small, large], 2, 2.0)
    small.fill(100.0)
    assert small.is_full
