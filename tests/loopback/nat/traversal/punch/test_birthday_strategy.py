"""The birthday method's driver: between swarms on loopback, which stand for two homes."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from lattica.errors import DialError, LatticaError, ResourceLimitError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.addresses import Kind, kind_of
from lattica.nat.base.wire import encode_length_prefixed
from lattica.nat.config import AccessRules
from lattica.nat.mux.connection import Connection
from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport
from lattica.nat.swarm.swarm import Swarm
from lattica.nat.traversal.punch.birthday import strategy as birthday_way
from lattica.nat.traversal.punch.birthday.config import BirthdayConfig
from lattica.nat.traversal.punch.birthday.messages import PROTOCOL, Hello, Refusal, encode
from lattica.nat.traversal.punch.birthday.strategy import BirthdayStrategy
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.punch.probe_budget import CHECK_COST, ProbeBudget
from tests.support.nets.nets import LISTEN_ON, open_files, running, settled

EIM, ADM, APDM = Behaviour
# Of the ports there are on loopback, many are tried at once: nothing is asserted about chance here.
QUICK = BirthdayConfig(sockets=128, probes=8192, rate=1000.0, per_address=20_000)


@pytest.fixture(autouse=True)
def _loopback_is_the_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP stands for the relayed path, and loopback for public addresses."""
    monkeypatch.setattr(birthday_way, "check_target", lambda ip, own: None)
    relayed = property(lambda self: kind_of(self.remote_addr) is Kind.TCP)
    monkeypatch.setattr(Connection, "is_relayed", relayed)


@dataclass
class Pair:
    """Two swarms with a "relayed" connection, inbound at `asker`, which makes the attempt."""

    asker: Swarm
    other: Swarm
    strategy: BirthdayStrategy
    other_strategy: BirthdayStrategy
    relayed: Connection


def report(host: str, swarm: Swarm, mapping: Behaviour, filtering: Behaviour = APDM) -> NatReport:
    port = swarm.udp_endpoints[0].local[1]
    return NatReport(mapping=mapping, filtering=filtering, mapped=((host, port),))


@asynccontextmanager
async def pair(
    config: BirthdayConfig = QUICK, other_config: BirthdayConfig | None = None, **changes: Any
) -> AsyncIterator[Pair]:
    listen = (*LISTEN_ON["tcp"], *LISTEN_ON["quic"])
    elsewhere = listen
    if sys.platform == "linux":  # all of 127.0.0.0/8 is this machine
        elsewhere = (*LISTEN_ON["tcp"], "/ip4/127.0.0.2/udp/0/quic-v1/noise")
    async with running(listen=listen, **changes) as asker, running(listen=elsewhere) as other:
        strategy, other_strategy = (
            BirthdayStrategy(asker, config),
            BirthdayStrategy(other, other_config or config),
        )
        asker.protocols.handle_all(strategy.handlers)
        other.protocols.handle_all(other_strategy.handlers)
        tcp = [addr for addr in asker.listen_addrs if kind_of(addr) is Kind.TCP]
        await other.dial(asker.identity.peer_id, tcp)
        relayed = await asker.wait_connected(other.identity.peer_id)
        yield Pair(asker, other, strategy, other_strategy, relayed)


@pytest.mark.skipif(sys.platform != "linux", reason="has one loopback address only")
@pytest.mark.parametrize("asker_is_hard", [True, False])
async def test_they_meet_and_nothing_is_left_open(asker_is_hard: bool) -> None:
    async with pair() as both:
        hard, easy = (both.asker, both.other) if asker_is_hard else (both.other, both.asker)
        hosts = {swarm: swarm.udp_endpoints[0].local[0] for swarm in (hard, easy)}
        hard.nat.set(report(hosts[hard], hard, APDM))
        easy.nat.set(report(hosts[easy], easy, EIM))
        files = open_files()
        with trio.fail_after(60):
            direct = await both.strategy.attempt(both.relayed)
        assert kind_of(direct.remote_addr) is Kind.QUIC
        await settled(lambda: open_files() <= files + 4)
        await settled(lambda: not both.other_strategy._active)


@pytest.mark.parametrize("who", ["asker", "other"])
async def test_what_does_not_apply_is_said_by_either_side(who: str) -> None:
    async with pair() as both:
        for swarm, host in ((both.asker, "127.0.0.1"), (both.other, "127.0.0.2")):
            swarm.nat.set(report(host, swarm, APDM))
        with trio.fail_after(60), pytest.raises(NotApplicable, match="only a relay works"):
            await both.strategy.attempt(both.relayed)
        blind = both.asker if who == "asker" else both.other
        blind.nat.set(NatReport(udp_works=False))
        with trio.fail_after(60), pytest.raises(NotApplicable, match="STUN"):
            await both.strategy.attempt(both.relayed)


async def test_a_run_that_is_cancelled_ends_on_both_sides() -> None:
    slow = BirthdayConfig(sockets=64, probes=1, rate=1.0)
    async with pair(slow) as both:
        both.asker.nat.set(report("127.0.0.1", both.asker, APDM))
        both.other.nat.set(report("127.0.0.2", both.other, EIM))
        files = open_files()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(both.strategy.attempt, both.relayed)
            await settled(lambda: open_files() >= files + 64)
            with pytest.raises(ResourceLimitError, match="with this peer"):
                await both.strategy.attempt(both.relayed)
            nursery.cancel_scope.cancel()
        await settled(lambda: open_files() <= files)
        await settled(lambda: not both.other_strategy._active)
        assert not both.strategy._active


async def test_a_run_without_luck_fails_with_a_reason() -> None:
    async with pair(BirthdayConfig(sockets=8, probes=1, rate=100.0)) as both:
        both.asker.nat.set(report("127.0.0.1", both.asker, EIM))
        both.other.nat.set(report("127.0.0.2", both.other, APDM))
        with trio.fail_after(60), pytest.raises(DialError, match="none of 1 probes"):
            await both.strategy.attempt(both.relayed)


async def test_a_spent_budget_ends_a_run() -> None:
    stingy = BirthdayConfig(per_address=4, per_hour=4)
    async with pair(stingy) as both:
        both.asker.nat.set(report("127.0.0.1", both.asker, APDM))
        both.other.nat.set(report("127.0.0.2", both.other, EIM))
        with trio.fail_after(60), pytest.raises(DialError, match="budget"):
            await both.strategy.attempt(both.relayed)


async def test_a_budget_is_shared_with_other_ways() -> None:
    async with pair() as both:
        both.asker.nat.set(report("127.0.0.1", both.asker, APDM))
        both.other.nat.set(report("127.0.0.2", both.other, EIM))
        budget = ProbeBudget(CHECK_COST, CHECK_COST, clock=trio.current_time)
        assert budget.take("127.0.0.2", CHECK_COST)  # as ICE does
        strategy = BirthdayStrategy(both.asker, QUICK, budget=budget)
        with trio.fail_after(60), pytest.raises(DialError, match="budget"):
            await strategy.attempt(both.relayed)


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"\x05junk!",
        b"\xff" * 20,
        encode_length_prefixed(encode(Hello(bytes(3)))),
        encode_length_prefixed(encode(Refusal("no", True))),
    ],
)
async def test_a_peer_that_talks_nonsense_gets_a_reset(
    words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair() as both:
        both.other.nat.set(report("127.0.0.2", both.other, EIM))
        stream = await both.asker.open_stream(both.other.identity.peer_id, [PROTOCOL])

        async def say() -> None:
            await stream.send_all(words)
            await stream.send_eof()
            await stream.receive_some()

        async with stream:
            with trio.fail_after(60), pytest.raises(OSError, match="aborted"):
                await say()
        assert not both.other_strategy._active
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_only_the_target_of_a_relayed_connection_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pair() as both:
        both.asker.nat.set(report("127.0.0.1", both.asker, APDM))

        async def ask(from_: Swarm, to: Swarm) -> None:
            stream = await from_.open_stream(to.identity.peer_id, [PROTOCOL])
            await stream.send_message(encode(Hello(bytes(16), APDM, APDM, (("127.0.0.2", 9),))))
            await stream.receive_some()

        strategies = [(both.other, both.asker), (both.asker, both.other)]
        for (from_, to), relayed in zip(strategies, (True, False), strict=True):
            monkeypatch.setattr(Connection, "is_relayed", relayed)
            with trio.fail_after(60), pytest.raises(OSError, match="aborted"):
                await ask(from_, to)


@pytest.mark.parametrize("who", ["asker", "other"])
async def test_runs_with_a_peer_are_limited(who: str) -> None:
    few, many = (BirthdayConfig(sockets=8, probes=1, runs_per_hour=n) for n in (2, 9))
    async with pair(*((few, many) if who == "asker" else (many, few))) as both:
        both.asker.nat.set(report("127.0.0.1", both.asker, EIM))
        both.other.nat.set(report("127.0.0.2", both.other, APDM))
        for why in ("none of 1 probes", "none of 1 probes", "of late"):
            await settled(lambda: not both.other_strategy._active)
            with trio.fail_after(60), pytest.raises(LatticaError, match=why):
                await both.strategy.attempt(both.relayed)


async def test_others_leave_places_for_runs_of_this_node() -> None:
    async with pair(BirthdayConfig(sockets=8, probes=1, max_runs=4)) as both:
        both.asker.nat.set(report("127.0.0.1", both.asker, EIM))
        both.other.nat.set(report("127.0.0.2", both.other, APDM))
        for strategy in (both.strategy, both.other_strategy):
            strategy._active |= {Identity.generate().peer_id for _ in range(2)}
        with trio.fail_after(60), pytest.raises(DialError, match="busy: too many"):
            await both.strategy.attempt(both.relayed)
        both.other_strategy._active.clear()
        with trio.fail_after(60), pytest.raises(DialError, match="none of 1 probes"):
            await both.strategy.attempt(both.relayed)


async def test_nothing_is_sent_to_what_the_access_rules_forbid() -> None:
    rules = AccessRules(deny_networks=("127.0.0.3/32",))
    async with pair(access=rules) as both:
        both.asker.nat.set(report("127.0.0.1", both.asker, EIM))
        both.other.nat.set(report("127.0.0.3", both.other, APDM))
        with trio.fail_after(60), pytest.raises(NotApplicable, match="access rules"):
            await both.strategy.attempt(both.relayed)


async def test_where_it_is_off_or_not_spoken() -> None:
    async with pair(other_config=BirthdayConfig(enabled=False)) as both:
        assert not both.other_strategy.handlers
        with trio.fail_after(60), pytest.raises(NotApplicable, match="turned off"):
            await both.other_strategy.attempt(both.relayed)
        both.asker.nat.set(report("127.0.0.1", both.asker, EIM))
        with trio.fail_after(60), pytest.raises(NotApplicable, match="does not speak"):
            await both.strategy.attempt(both.relayed)


async def test_sockets_that_cannot_be_had_are_no_defect(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair() as both:
        both.asker.nat.set(report("127.0.0.1", both.asker, EIM))
        both.other.nat.set(report("127.0.0.2", both.other, APDM))

        class Sockets:
            AF_INET, SOCK_DGRAM = socket.AF_INET, socket.SOCK_DGRAM
            problem = OSError(errno.EADDRNOTAVAIL, "the interface is gone")

            def socket(self, *words: object) -> None:
                raise self.problem

        sockets = Sockets()
        monkeypatch.setattr(birthday_way, "socket", sockets)
        for problem, why in (
            (sockets.problem, "the interface is gone"),
            (OSError(errno.EMFILE, "full"), "too few open files"),
        ):
            sockets.problem = problem
            with trio.fail_after(60), pytest.raises(ResourceLimitError, match=why):
                await both.strategy.attempt(both.relayed)
            await settled(lambda: not both.other_strategy._active)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
