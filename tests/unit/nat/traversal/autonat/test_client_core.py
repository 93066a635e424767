"""The core of the AutoNAT v2 client: whom it asks about what, when, and what it believes."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import ConfigError
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.traversal.autonat.client_core import (
    AddressReachability,
    AutonatClientCore,
    Check,
    DialBack,
    Outcome,
    Reachability,
    fits,
    is_checkable,
)
from lattica.nat.traversal.autonat.config import AutonatClientConfig
from lattica.nat.traversal.autonat.messages import DialResponse, DialStatus, ResponseStatus

SERVERS = [Identity.generate().peer_id for _ in range(5)]
ONE, TWO, THREE = SERVERS[:3]
ADDR = Multiaddr("/ip4/11.0.0.1/tcp/4001")
QUIC = Multiaddr("/ip4/11.0.0.1/udp/4001/quic-v1/noise")
BEHIND_NAT = Multiaddr("/ip4/192.168.1.7/tcp/4001")
OK = DialResponse(ResponseStatus.OK, 0, DialStatus.OK)
FAILED_DIAL = DialResponse(ResponseStatus.OK, 0, DialStatus.E_DIAL_ERROR)
OPINIONS = (Outcome.REACHABLE, Outcome.UNREACHABLE)


class Client:
    """A core with a clock, whose servers answer as `answer` says."""

    def __init__(self, servers: Sequence[PeerId] = (ONE, TWO, THREE), **changes: Any) -> None:
        self.now = 1000.0
        self.config = AutonatClientConfig(**changes)
        self.core = AutonatClientCore(self.config, clock=lambda: self.now, rng=Random(7))
        self.servers = list(servers)
        self.addrs = [ADDR]
        self.connected = list(servers)
        self.asked: list[tuple[Multiaddr, PeerId]] = []
        self.changes: list[AddressReachability] = []
        self.update()

    def update(self) -> None:
        self.changes += self.core.update(self.addrs, self.servers, self.connected)

    def begin(self) -> list[Check]:
        """All the checks that are to begin now."""
        checks = []
        while (check := self.core.next_check()) is not None:
            checks.append(check)
            self.asked.append((check.addr, check.server))
            assert len(checks) <= self.config.concurrent
        return checks

    def finish(self, check: Check, outcome: Outcome) -> None:
        change = self.core.finish(check, outcome)
        self.changes += [] if change is None else [change]

    def settle(self, answer: Callable[[Check], Outcome]) -> None:
        """Check until there is nothing left to do now."""
        for _ in range(100):
            checks = self.begin()
            if not checks:
                return
            for check in checks:
                self.finish(check, answer(check))
        raise AssertionError("it asks and asks")

    def settle_with(self, **outcomes: Outcome) -> None:
        by_server = {globals()[name]: outcome for name, outcome in outcomes.items()}
        self.settle(lambda check: by_server[check.server])

    def result(self, addr: Multiaddr = ADDR) -> tuple[Reachability, int, int]:
        found = self.core.results[addr]
        return found.reachability, found.agreeing, found.asked

    def wait(self) -> float:
        """Let time pass until there is something to do; how long that was."""
        due = self.core.next_due()
        assert due > self.now
        assert due < math.inf
        pause, self.now = due - self.now, due
        return pause


class TestAgreement:
    def test_two_of_three(self) -> None:
        client = Client()
        client.settle(lambda check: Outcome.REACHABLE)
        assert client.result() == (Reachability.REACHABLE, 2, 2)
        assert len(client.asked) == 2

    def test_the_third_decides(self) -> None:
        for last in OPINIONS:
            client = Client()
            answers = iter([Outcome.REACHABLE, Outcome.UNREACHABLE, last])

            def answer(check: Check, answers: Iterator[Outcome] = answers) -> Outcome:
                return next(answers)

            client.settle(answer)
            assert client.result()[1:] == (2, 3)
            assert client.result()[0].value == last.name.lower()

    def test_one_is_enough_where_there_is_no_other(self) -> None:
        client = Client([ONE])
        client.settle(lambda check: Outcome.UNREACHABLE)
        assert client.result() == (Reachability.UNREACHABLE, 1, 1)

    def test_one_against_one_is_unknown(self) -> None:
        client = Client([ONE, TWO])
        client.settle_with(ONE=Outcome.REACHABLE, TWO=Outcome.UNREACHABLE)
        assert client.result() == (Reachability.UNKNOWN, 0, 2)
        assert client.changes == []

    @pytest.mark.parametrize(
        "silent",
        [
            Outcome.NO_VERDICT,
            Outcome.REFUSED,
            Outcome.FAILED,
            Outcome.UNSUPPORTED,
            Outcome.LIED,
        ],
    )
    def test_who_has_no_opinion_does_not_count(self, silent: Outcome) -> None:
        client = Client()
        client.settle_with(ONE=silent, TWO=silent, THREE=Outcome.REACHABLE)
        assert client.result() == (Reachability.REACHABLE, 1, 1)

    @pytest.mark.parametrize("silent", [Outcome.NO_VERDICT, Outcome.REFUSED, Outcome.FAILED])
    def test_nobody_has_an_opinion(self, silent: Outcome) -> None:
        client = Client()
        client.settle(lambda check: silent)
        assert client.result() == (Reachability.UNKNOWN, 0, 0)
        assert len(client.asked) == 3
        client.wait()
        client.settle(lambda check: Outcome.REACHABLE)
        assert client.result()[0] is Reachability.REACHABLE

    def test_no_servers_at_all(self) -> None:
        client = Client([])
        assert client.begin() == []
        assert client.core.next_due() == math.inf

    @given(st.lists(st.sampled_from(list(Outcome)), min_size=5, max_size=5))
    def test_reachable_is_what_most_of_those_say_who_were_asked(
        self, outcomes: list[Outcome]
    ) -> None:
        client = Client(SERVERS)
        said: dict[PeerId, Outcome] = {}

        def answer(check: Check) -> Outcome:
            said[check.server] = outcomes[SERVERS.index(check.server)]
            return said[check.server]

        client.settle(answer)
        counts = [list(said.values()).count(outcome) for outcome in OPINIONS]
        reachability, agreeing, asked = client.result()
        assert asked == sum(counts)
        if counts[0] == counts[1]:
            assert reachability is Reachability.UNKNOWN
        else:
            assert reachability.value == OPINIONS[counts.index(max(counts))].name.lower()
            assert agreeing == max(counts)
        # No more than needed, and no less than there are.
        assert max(counts) <= 2
        assert max(counts) == 2 or len(said) == 5


class TestWhoIsAsked:
    def test_each_server_one_thing_at_a_time(self) -> None:
        client = Client([ONE], concurrent=8)
        client.addrs = [ADDR, QUIC]
        client.update()
        (check,) = client.begin()
        assert client.core.is_asking(ONE)
        client.finish(check, Outcome.REACHABLE)
        assert not client.core.is_asking(ONE)
        (other,) = client.begin()
        assert {check.addr, other.addr} == {ADDR, QUIC}

    def test_only_so_many_checks_at_a_time(self) -> None:
        client = Client(SERVERS, concurrent=2)
        assert len(client.begin()) == 2

    def test_no_more_servers_than_needed(self) -> None:
        client = Client(SERVERS, concurrent=8)
        first, _ = client.begin()
        client.finish(first, Outcome.UNREACHABLE)
        assert client.begin() == []

    def test_only_those_that_are_connected(self) -> None:
        client = Client()
        client.connected = [TWO]
        client.update()
        client.settle(lambda check: Outcome.REACHABLE)
        assert client.asked == [(ADDR, TWO)]

    def test_a_server_that_comes_later_is_asked_at_once(self) -> None:
        client = Client([ONE])
        client.settle(lambda check: Outcome.UNREACHABLE)
        assert client.begin() == []
        client.servers = client.connected = [ONE, TWO]
        client.update()
        client.settle(lambda check: Outcome.UNREACHABLE)
        assert client.result() == (Reachability.UNREACHABLE, 2, 2)
        client.update()
        assert client.begin() == []

    def test_one_that_comes_and_goes_is_not(self) -> None:
        client = Client([ONE])
        client.settle(lambda check: Outcome.NO_VERDICT)
        for connected in ([], [ONE]) * 3:
            client.connected = list(connected)
            client.update()
            assert client.begin() == []

    def test_a_round_does_not_wait_for_a_server_that_has_gone(self) -> None:
        client = Client([ONE, TWO], concurrent=1)
        (check,) = client.begin()
        client.finish(check, Outcome.REACHABLE)
        assert client.result()[0] is Reachability.UNKNOWN
        client.connected = [check.server]
        client.update()
        assert client.result() == (Reachability.REACHABLE, 1, 1)
        assert [change.addr for change in client.changes] == [ADDR]

    def test_a_failing_server_is_left_alone_for_longer_and_longer(self) -> None:
        client = Client([ONE], server_pause_min=10.0, server_pause_max=100.0)
        pauses = []
        for _ in range(6):
            client.settle(lambda check: Outcome.FAILED)
            pauses.append(client.wait())
        for pause, expected in zip(pauses, (10, 20, 40, 80, 100, 100), strict=True):
            assert expected / 2 <= pause <= expected
        client.settle(lambda check: Outcome.REACHABLE)
        client.wait()
        client.settle(lambda check: Outcome.FAILED)
        assert client.wait() <= 10

    def test_a_liar_is_not_asked_for_long_and_its_votes_are_void(self) -> None:
        client = Client([ONE, TWO], distrust=5000.0, recheck_max=60.0, concurrent=1)
        client.addrs = [ADDR, QUIC]
        client.update()
        seen: list[Multiaddr] = []

        def answer(check: Check) -> Outcome:
            if check.server == TWO:
                return Outcome.REACHABLE
            seen.append(check.addr)
            return Outcome.UNREACHABLE if len(seen) == 1 else Outcome.LIED

        client.settle(answer)
        end = client.now + 4900
        count = len(seen)
        while client.now < end:
            client.wait()
            client.settle(answer)
        assert len(seen) == count
        assert client.result(ADDR) == (Reachability.REACHABLE, 1, 1)
        assert client.result(QUIC) == (Reachability.REACHABLE, 1, 1)

    def test_a_liar_that_goes_and_comes_back_is_a_liar_still(self) -> None:
        client = Client([ONE])
        client.settle(lambda check: Outcome.LIED)
        for servers in ([], [ONE]):
            client.servers = client.connected = list(servers)
            client.update()
            assert client.begin() == []
        client.now += client.config.distrust + 1
        client.update()
        assert len(client.begin()) == 1

    def test_addresses_that_a_server_refuses(self) -> None:
        client = Client([ONE, TWO], recheck_max=60.0)
        for _ in range(5):
            client.settle_with(ONE=Outcome.REFUSED, TWO=Outcome.REACHABLE)
            client.wait()
        assert client.asked.count((ADDR, ONE)) == 1
        assert client.asked.count((ADDR, TWO)) == 5

    def test_those_that_are_no_longer_configured_are_forgotten(self) -> None:
        client = Client([ONE, TWO])
        checks = client.begin()
        client.servers = client.connected = [THREE]
        client.update()
        for check in checks:
            client.finish(check, Outcome.UNREACHABLE)
        client.wait()
        client.asked.clear()
        client.settle(lambda check: Outcome.REACHABLE)
        assert client.asked == [(ADDR, THREE)]


class TestSchedule:
    def test_slower_and_slower_while_nothing_changes(self) -> None:
        client = Client(recheck_min=60.0, recheck_max=600.0)
        pauses = []
        for _ in range(6):
            client.settle(lambda check: Outcome.REACHABLE)
            pauses.append(client.wait())
        for pause, expected in zip(pauses, (60, 120, 240, 480, 600, 600), strict=True):
            assert 0.8 * expected <= pause <= 1.2 * expected
        client.settle(lambda check: Outcome.UNREACHABLE)
        assert client.wait() <= 72
        assert [change.reachability.value for change in client.changes] == [
            "reachable",
            "unreachable",
        ]

    def test_the_result_stays_while_it_is_checked_again(self) -> None:
        client = Client()
        client.settle(lambda check: Outcome.REACHABLE)
        since = client.core.results[ADDR].since
        client.wait()
        first, second = client.begin()
        assert client.result() == (Reachability.REACHABLE, 2, 2)
        client.finish(first, Outcome.REACHABLE)
        client.finish(second, Outcome.REACHABLE)
        assert client.core.results[ADDR].since == since

    def test_a_network_change_starts_all_anew(self) -> None:
        client = Client()
        client.settle(lambda check: Outcome.REACHABLE)
        client.wait()
        old = client.begin()
        (change,) = client.core.network_changed()
        assert (change.addr, change.reachability) == (ADDR, Reachability.UNKNOWN)
        for check in old:
            # What they say is of the past; nobody is to blame for it.
            client.finish(check, Outcome.LIED)
        assert client.result()[0] is Reachability.UNKNOWN
        client.now += client.config.server_pause_min * 2
        client.settle(lambda check: Outcome.UNREACHABLE)
        assert client.result() == (Reachability.UNREACHABLE, 2, 2)

    def test_abandoned_checks_are_made_again(self) -> None:
        client = Client([ONE])
        (check,) = client.begin()
        client.core.abandon(check)
        (again,) = client.begin()
        assert (again.addr, again.server) == (check.addr, check.server)
        client.core.network_changed()
        client.core.abandon(again)
        assert len(client.begin()) == 1


class TestAddresses:
    def test_only_public_ones_are_checked(self) -> None:
        client = Client()
        client.addrs = [
            BEHIND_NAT,
            Multiaddr("/ip4/127.0.0.1/tcp/1"),
            Multiaddr("/dns4/example.org/tcp/443/wss"),
            ADDR.encapsulate(Multiaddr(f"/p2p/{ONE}/p2p-circuit")),
            Multiaddr("/ip6/fe80::1/tcp/1"),
            ADDR,
        ]
        client.update()
        assert list(client.core.results) == [ADDR]

    def test_a_peer_at_the_end_makes_no_difference(self) -> None:
        client = Client()
        client.addrs = [ADDR, ADDR.encapsulate(Multiaddr(f"/p2p/{ONE}"))]
        client.update()
        assert list(client.core.results) == [ADDR]

    def test_not_too_many(self) -> None:
        client = Client(max_addresses=4)
        client.addrs = [Multiaddr(f"/ip4/11.0.0.1/tcp/{port}") for port in range(1, 100)]
        client.update()
        assert list(client.core.results) == client.addrs[:4]

    def test_results_stay_and_go_with_their_address(self) -> None:
        client = Client()
        client.settle(lambda check: Outcome.REACHABLE)
        client.addrs = [QUIC, ADDR]
        client.update()
        assert client.result(ADDR)[0] is Reachability.REACHABLE
        assert client.result(QUIC)[0] is Reachability.UNKNOWN
        client.addrs = [QUIC]
        client.update()
        assert list(client.core.results) == [QUIC]

    def test_an_address_that_goes_while_it_is_checked(self) -> None:
        client = Client([ONE])
        (check,) = client.begin()
        client.addrs = []
        client.update()
        client.finish(check, Outcome.REACHABLE)
        assert client.changes == []
        client.addrs = [ADDR]
        client.update()
        assert len(client.begin()) == 1

    def test_labs_may_have_private_ones(self) -> None:
        assert is_checkable(BEHIND_NAT, allow_private=True)
        assert not is_checkable(Multiaddr("/ip4/0.0.0.0/tcp/1"), allow_private=True)
        assert not is_checkable(Multiaddr("/ip4/11.0.0.1/tcp/0"))
        assert not is_checkable(Multiaddr("/dnsaddr/example.org"))


def judged(response: DialResponse, dial_back: DialBack | None) -> Outcome:
    client = Client([ONE])
    (check,) = client.begin()
    if dial_back is not None:
        assert client.core.take_dial_back(check.nonce, dial_back)
    return client.core.judge(check, response, [])


class TestProof:
    FRESH = DialBack(BEHIND_NAT, is_fresh=True)
    STALE = DialBack(BEHIND_NAT, is_fresh=False)
    OVER_QUIC = DialBack(QUIC, is_fresh=True)

    @pytest.mark.parametrize(
        ("response", "dial_back", "outcome"),
        [
            (OK, FRESH, Outcome.REACHABLE),
            (OK, None, Outcome.LIED),
            (OK, STALE, Outcome.NO_VERDICT),
            (OK, OVER_QUIC, Outcome.NO_VERDICT),
            (FAILED_DIAL, None, Outcome.UNREACHABLE),
            (FAILED_DIAL, FRESH, Outcome.REACHABLE),
            (FAILED_DIAL, STALE, Outcome.NO_VERDICT),
            (
                DialResponse(ResponseStatus.OK, 0, DialStatus.E_DIAL_BACK_ERROR),
                None,
                Outcome.NO_VERDICT,
            ),
            (
                DialResponse(ResponseStatus.OK, 0, DialStatus.E_DIAL_BACK_ERROR),
                FRESH,
                Outcome.REACHABLE,
            ),
            (DialResponse(ResponseStatus.OK, 1, DialStatus.OK), FRESH, Outcome.LIED),
            (DialResponse(ResponseStatus.E_DIAL_REFUSED), None, Outcome.REFUSED),
            (DialResponse(ResponseStatus.E_REQUEST_REJECTED), None, Outcome.FAILED),
            (DialResponse(ResponseStatus.E_INTERNAL_ERROR), FRESH, Outcome.FAILED),
        ],
    )
    def test_counts_for_more_than_words(
        self, response: DialResponse, dial_back: DialBack | None, outcome: Outcome
    ) -> None:
        assert judged(response, dial_back) is outcome

    def test_a_nonce_is_taken_once_and_only_if_it_was_asked_for(self) -> None:
        client = Client([ONE])
        (check,) = client.begin()
        assert client.core.awaits_dial_back(check, OK)
        assert not client.core.awaits_dial_back(check, FAILED_DIAL)
        assert not client.core.take_dial_back(check.nonce ^ 1, self.FRESH)
        assert client.core.take_dial_back(check.nonce, self.STALE)
        assert not client.core.take_dial_back(check.nonce, self.FRESH)
        assert not client.core.awaits_dial_back(check, OK)
        client.finish(check, Outcome.NO_VERDICT)
        assert not client.core.take_dial_back(check.nonce, self.FRESH)

    def test_every_check_has_a_nonce_of_its_own(self) -> None:
        client = Client(SERVERS, concurrent=5)
        client.addrs = [ADDR, QUIC]
        client.update()
        nonces = [check.nonce for check in client.begin()]
        assert len(set(nonces)) == len(nonces) == 4

    @pytest.mark.parametrize(
        ("addr", "local", "ok"),
        [
            ("/ip4/11.0.0.1/tcp/4001", "/ip4/192.168.1.7/tcp/9", True),  # behind a NAT
            ("/ip4/11.0.0.1/tcp/4001", "/ip4/192.168.1.7/tcp/9/ws", False),
            ("/ip4/11.0.0.1/tcp/443/wss", "/ip4/192.168.1.7/tcp/9/ws", True),
            ("/ip4/11.0.0.1/tcp/4001", "/ip6/2b00::1/tcp/4001", False),
            ("/ip4/11.0.0.7/tcp/4001", "/ip4/11.0.0.7/tcp/4001", True),  # of our own
            ("/ip4/11.0.0.7/tcp/4001", "/ip4/0.0.0.0/tcp/4001", True),
            ("/ip4/11.0.0.7/tcp/4001", "/ip4/11.0.0.7/tcp/4002", False),
            ("/ip4/11.0.0.7/tcp/4001", "/ip4/11.0.0.8/tcp/4001", False),
        ],
    )
    def test_a_dial_back_fits_the_address(self, addr: str, local: str, ok: bool) -> None:
        own = [ipaddress.ip_address("11.0.0.7"), ipaddress.ip_address("192.168.1.7")]
        dial_back = DialBack(Multiaddr(local), is_fresh=True)
        assert fits(Multiaddr(addr), dial_back, own) is ok


class TestConfig:
    @pytest.mark.parametrize(
        "change",
        [
            {"agreement": 0},
            {"concurrent": 1000},
            {"recheck_min": 0.0},
            {"recheck_max": 1.0},
            {"server_pause_max": 1.0},
            {"distrust": math.inf},
        ],
    )
    def test_is_checked(self, change: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(change))):
            AutonatClientConfig(**change)


def is_idle(client: Client) -> bool:
    return client.core.is_idle


def test_idle_when_nothing_can_be_asked_now() -> None:
    client = Client([ONE])
    assert not is_idle(client)
    (check,) = client.begin()
    assert not is_idle(client)
    client.finish(check, Outcome.UNSUPPORTED)
    assert is_idle(client)
    assert client.result()[0] is Reachability.UNKNOWN
    client.servers = client.connected = [ONE, TWO]
    client.update()
    assert not is_idle(client)
    client.settle(lambda check: Outcome.REACHABLE)
    assert is_idle(client)
    client.core.network_changed()
    assert not is_idle(client)
