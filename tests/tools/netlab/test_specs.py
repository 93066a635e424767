"""Specs from tables: what is taken, and how what is not is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tools.netlab.lab import nftables
from tools.netlab.spec.link import BurstLoss, LinkSpec
from tools.netlab.spec.nat import NAMES, NatSpec
from tools.netlab.spec.strict import SpecError, from_table, to_table
from tools.netlab.spec.wire import COMMANDS, OPERATIONS, AddWire, EndSpec, SetUp, WireSpec


@pytest.mark.parametrize("name", NAMES)
def test_named_nats_survive_a_round_trip(name: str) -> None:
    assert from_table(NatSpec, to_table(NAMES[name])) == NAMES[name]


def test_nested_tables_and_lists() -> None:
    wire = WireSpec(
        "w",
        EndSpec("a", "/proc/1/ns/net"),
        EndSpec("b", mtu=1280),
        ab=LinkSpec(delay_s=0.1, burst=BurstLoss(0.1, 0.5)),
        nat=NatSpec(),
        external=("192.0.2.1", "192.0.2.2"),
    )
    table = to_table(AddWire(wire))
    assert table["wire"]["external"] == ["192.0.2.1", "192.0.2.2"]
    assert "rate_bps" not in table["wire"]["ab"]
    assert from_table(AddWire, table) == AddWire(wire)


def test_whole_numbers_are_taken_for_floats() -> None:
    assert from_table(LinkSpec, {"delay_s": 1}) == LinkSpec(delay_s=1.0)


@pytest.mark.parametrize(
    ("table", "key", "reason"),
    [
        ({"speed": 1}, "links.up.speed", "unknown key; known are burst, delay_s"),
        ({"delay_s": "1"}, "links.up.delay_s", "expected a number, got the string '1'"),
        ({"delay_s": True}, "links.up.delay_s", "expected a number, got true"),
        ({"delay_s": -1}, "links.up.delay_s", "expected at least 0 and at most 3600, got -1"),
        ({"queue_bytes": 1.5}, "links.up.queue_bytes", "expected a whole number"),
        ({"jitter_shape": "round"}, "links.up.jitter_shape", "expected one of 'uniform', 'normal'"),
        ({"jitter_shape": []}, "links.up.jitter_shape", "expected one of"),
        ({"jitter_reorders": 1}, "links.up.jitter_reorders", "expected true or false"),
        ({"burst": 0.1}, "links.up.burst", "expected a table, got the number 0.1"),
        ({"burst": {"enter": 0.1}}, "links.up.burst.leave", "is required"),
        ({"burst": {"enter": 2, "leave": 1}}, "links.up.burst.enter", "at most 1"),
        ({"burst": {"enter": 0, "leave": 0}}, "links.up.burst.leave", "expected more than 0"),
    ],
)
def test_what_is_wrong_is_named(table: Mapping[str, object], key: str, reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        from_table(LinkSpec, table, "links.up")
    assert caught.value.key == key
    assert reason in caught.value.reason
    assert str(caught.value) == f"{key}: {caught.value.reason}"


@pytest.mark.parametrize(
    ("external", "reason"),
    [("192.0.2.1", "expected a list"), ([1], "expected a string"), (None, "expected a list")],
)
def test_lists(external: object, reason: str) -> None:
    table = {"name": "w", "a": {"device": "a"}, "b": {"device": "b"}, "external": external}
    with pytest.raises(SpecError, match=reason):
        from_table(WireSpec, table)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"overload": True}, "overload"),
        ({"translate": "none", "mapping": "address-dependent"}, "translate"),
        ({"translate": "one-to-one", "port": "random"}, "translate"),
        ({"port_low": 10, "port_high": 9}, "port_high"),
        ({"port_low": 0}, "port_low"),
        ({"ports_per_host": 0}, "ports_per_host"),
        ({"udp_timeout_s": 0}, "udp_timeout_s"),
        ({"max_sessions": 0}, "max_sessions"),
        ({"natpmp": True}, "pcp"),
        ({"upnp": True, "pcp": True}, "pcp"),
        ({"port_step": 0}, "port_step"),
    ],
)
def test_impossible_nats(fields: dict[str, object], key: str) -> None:
    with pytest.raises(SpecError) as caught:
        from_table(NatSpec, fields)
    assert caught.value.key == key


KERNEL = NAMES["linux-masquerade"]


@pytest.mark.parametrize(
    ("fields", "obstacle"),
    [
        ({}, None),
        ({"inbound_refresh": False}, "inbound_refresh"),
        ({"udp_timeout_s": 1.5}, "udp_timeout_s 1.5: the kernel counts whole seconds"),
        ({"tcp_timeout_s": 0.5}, "tcp_timeout_s"),
        ({"tcp_transitory_s": 0.5}, "tcp_transitory_s"),
        ({"icmp_timeout_s": 0.5}, "icmp_timeout_s"),
        ({"max_sessions": 10}, "max_sessions"),
        ({"port_low": 2000}, "port_low"),
        ({"port": "random", "port_low": 2000}, None),
        ({"hairpin": True}, "hairpin"),
        ({"blocked": "udp", "refuse_tcp": "icmp", "ipv6": "open"}, None),
        ({"ports_per_host": 5}, "ports_per_host"),
    ],
)
def test_the_kernel_is_taken_only_where_it_behaves_as_asked(
    fields: dict[str, Any], obstacle: str | None
) -> None:
    found = nftables.obstacles(replace(KERNEL, **fields))
    assert len(found) == (obstacle is not None)
    assert obstacle is None or obstacle in found[0]


def test_where_nothing_is_filtered_no_time_matters() -> None:
    spec = NatSpec(translate="none", filtering="endpoint-independent", udp_timeout_s=0.5)
    assert nftables.obstacles(spec) == ()
    assert nftables.obstacles(replace(spec, filtering="address-dependent")) != ()


def test_the_kernel_gets_all_time_outs() -> None:
    spec = replace(KERNEL, udp_timeout_s=1, tcp_timeout_s=2, tcp_transitory_s=3, icmp_timeout_s=4)
    settings = nftables.sysctls(spec)
    prefix = "net/netfilter/nf_conntrack_"
    assert {key.removeprefix(prefix): value for key, value in settings.items()} == {
        "udp_timeout": "1",
        "udp_timeout_stream": "1",
        "icmp_timeout": "4",
        "icmpv6_timeout": "4",
        "tcp_timeout_established": "2",
        "tcp_timeout_fin_wait": "2",
        "tcp_timeout_close_wait": "2",
        "tcp_timeout_max_retrans": "2",
        "tcp_timeout_unacknowledged": "2",
        "tcp_timeout_syn_sent": "3",
        "tcp_timeout_syn_recv": "3",
        "tcp_timeout_last_ack": "3",
        "tcp_timeout_time_wait": "3",
        "tcp_timeout_close": "3",
        "tcp_loose": "0",
        "tcp_be_liberal": "1",
    }


@pytest.mark.parametrize("device", ["", "0123456789abcdef"])
def test_device_names(device: str) -> None:
    with pytest.raises(SpecError, match="1 to 15 bytes"):
        EndSpec(device)


def test_each_command_has_one_name() -> None:
    assert {COMMANDS[op] for op in OPERATIONS.values()} == set(COMMANDS.values())
    assert from_table(COMMANDS["up"], {"name": "w", "up": False}) == SetUp("w", up=False)
