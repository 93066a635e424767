"""The birthday method's cores against each other, over a NAT that is played here."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import pairwise

import pytest

from lattica.errors import ConfigError, RemoteProtocolError
from lattica.nat.quic.fec.codec import is_fec
from lattica.nat.quic.path.peer_path import is_path_message
from lattica.nat.swarm.addresses.nat_report import Behaviour, NatReport
from lattica.nat.traversal.punch.birthday import messages
from lattica.nat.traversal.punch.birthday.config import BirthdayConfig
from lattica.nat.traversal.punch.birthday.core import (
    SIZE,
    BirthdayEasy,
    BirthdayHard,
    Kind,
    Meeting,
    Role,
    check_target,
    decode,
    encode,
    role_of,
)
from lattica.nat.traversal.punch.birthday.messages import Hello, Met, Ready, Refusal
from lattica.nat.traversal.punch.not_applicable import NotApplicable
from lattica.nat.traversal.punch.probe_budget import MAX_ADDRESSES, ProbeBudget

EIM, ADM, APDM = Behaviour
TOKEN = bytes(range(16))
HARD, EASY = "11.0.0.1", "11.0.0.2"
EASY_AT = (EASY, 4001)
STEP = 0.01
CONFIG = BirthdayConfig()


@dataclass
class Run:
    """Both sides, the NATs between them, and a path that takes 30 ms and loses packets."""

    seed: int
    hard_port: Callable[[random.Random, int], int]
    loss: float = 0.0
    hints: tuple[int, ...] = ()
    now: float = 0.0
    sent: int = 0
    refused: int = 0
    ports: dict[int, int] = field(default_factory=dict)
    """The hard side's port at its NAT, by the index of the socket."""
    allowed: set[tuple[str, int]] = field(default_factory=set)
    """What the easy side has sent to, and so what its NAT lets in."""

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.hard = BirthdayHard(
            TOKEN,
            EASY_AT,
            sockets=CONFIG.sockets,
            refresh=CONFIG.refresh,
            clock=lambda: self.now,
        )
        self.easy = BirthdayEasy(
            TOKEN,
            HARD,
            hints=self.hints,
            probes=CONFIG.probes,
            rate=CONFIG.rate,
            clock=lambda: self.now,
            rng=self.rng,
        )
        self.under_way: list[tuple[float, bytes, int, int]] = []

    def play(self, seconds: float = CONFIG.timeout) -> bool:
        """Let both sides run; whether both have met."""
        while self.now < seconds and not self.easy.has_failed:
            for index in self.hard.poll():
                self._from_hard(index, self.hard.probe)
            if self.hard.is_open:
                for host, port in self.easy.poll():
                    assert host == HARD
                    self.allowed.add((host, port))
                    self._carry(self.easy.probe, 0, port)
            self._deliver()
            if self.hard.meeting is not None and self.easy.meeting is not None:
                return True
            self.now += STEP
        return False

    def _from_hard(self, index: int, datagram: bytes) -> None:
        if index not in self.ports:
            taken = set(self.ports.values())
            port = self.hard_port(self.rng, index)
            while port in taken:
                port = self.hard_port(self.rng, index)
            self.ports[index] = port
        self._carry(datagram, self.ports[index], 0)

    def _carry(self, datagram: bytes, hard_port: int, to_port: int) -> None:
        self.sent += 1
        if self.rng.random() >= self.loss:
            self.under_way.append((self.now + 0.03, datagram, hard_port, to_port))

    def _deliver(self) -> None:
        due = [item for item in self.under_way if item[0] <= self.now]
        self.under_way = [item for item in self.under_way if item[0] > self.now]
        by_port = {port: index for index, port in self.ports.items()}
        for _, datagram, hard_port, to_port in due:
            if hard_port:  # to the easy side, whose NAT filters by address and port
                if (HARD, hard_port) in self.allowed:
                    self.easy.receive(datagram, (HARD, hard_port))
            elif to_port in by_port:
                answer = self.hard.receive(by_port[to_port], datagram, EASY_AT)
                if answer is not None:
                    self._from_hard(by_port[to_port], answer)


def any_port(rng: random.Random, index: int) -> int:
    return rng.randint(1024, 65535)


def next_port(rng: random.Random, index: int) -> int:
    return 30_000 + index


def own_port(rng: random.Random, index: int) -> int:
    return rng.randint(32_768, 60_999)


class TestRuns:
    def test_random_ports_are_hit_in_nearly_all_runs(self):
        runs = [Run(seed, any_port) for seed in range(200)]
        met = [run for run in runs if run.play()]
        assert len(met) >= 195
        for run in met:
            assert run.hard.meeting is not None
            assert run.easy.meeting == (HARD, run.ports[run.hard.meeting.index])
            assert run.hard.meeting.source == EASY_AT

    def test_a_path_that_loses_packets(self):
        runs = [Run(seed, any_port, loss=0.1) for seed in range(50)]
        for run in runs:
            run.play()
        # A lost answer does no harm: the hard side dials, and says so over the relay.
        assert sum(run.hard.meeting is not None for run in runs) >= 48

    def test_ports_in_a_narrow_range(self):
        assert sum(Run(seed, own_port).play() for seed in range(50)) >= 48

    def test_ports_in_order_are_hit_at_once(self):
        for seed in range(50):
            run = Run(seed, next_port, hints=(29_000, 29_950))
            assert run.play()
            assert run.easy.sent < 64

    def test_a_wrong_hint_does_no_harm(self):
        met = sum(Run(seed, any_port, hints=(65_500,)).play() for seed in range(50))
        assert met >= 48

    def test_what_a_failure_costs(self):
        run = Run(1, any_port, loss=1.0)
        assert not run.play()
        assert run.easy.has_failed
        assert run.easy.next_timer() is None
        assert run.easy.sent == CONFIG.probes
        assert run.sent <= CONFIG.probes + CONFIG.sockets * (CONFIG.timeout / CONFIG.refresh + 1)

    def test_nothing_more_is_sent_once_they_have_met(self):
        run = Run(3, any_port)
        assert run.play()
        run.now += 60
        assert run.hard.poll() == []
        assert run.easy.poll() == []
        assert run.hard.next_timer() is None
        assert run.easy.next_timer() is None
        assert not run.easy.has_failed


class TestHard:
    now = 0.0

    def core(self, sockets: int = 64) -> BirthdayHard:
        return BirthdayHard(TOKEN, EASY_AT, sockets=sockets, refresh=5.0, clock=lambda: self.now)

    def test_each_socket_opens_and_then_refreshes(self):
        core, turns = self.core(), []
        while self.now < 20:
            timer = core.next_timer()
            assert timer is not None
            self.now = max(self.now, timer)
            turns += [(self.now, index) for index in core.poll()]
        assert [index for _, index in turns[:64]] == list(range(64))
        mine = [t for t, index in turns if index == 5]
        gaps = [later - sooner for sooner, later in pairwise(mine)]
        assert 2.5 < gaps[0] < 7.5
        assert all(abs(gap - 5) < 0.1 for gap in gaps[1:])
        assert len(gaps) in (3, 4)

    def test_who_was_away_does_not_flood(self):
        core = self.core()
        self.now = 1000.0
        assert len(core.poll()) == 32
        assert core.poll() == []

    def test_only_the_one_who_is_expected_is_answered(self):
        core = self.core()
        probe = encode(Kind.PROBE, TOKEN)
        assert core.receive(1, probe, ("11.9.9.9", 4001)) is None
        assert core.receive(1, encode(Kind.PROBE, bytes(16)), EASY_AT) is None
        assert core.receive(1, encode(Kind.ANSWER, TOKEN), EASY_AT) is None
        assert core.receive(1, probe + b"\x00", EASY_AT) is None
        assert core.receive(1, b"", EASY_AT) is None
        assert core.next_timer() is not None  # it goes on
        assert core.receive(1, probe, (EASY, 5)) == encode(Kind.ANSWER, TOKEN)
        assert core.meeting == Meeting(1, (EASY, 5))
        assert core.receive(2, probe, (EASY, 5)) is None  # the second is too late
        answers = [core.receive(1, probe, (EASY, 5)) for _ in range(100)]
        assert sum(answer is not None for answer in answers) < 16


class TestEasy:
    now = 0.0

    def core(self, **changes: object) -> BirthdayEasy:
        fields: dict[str, object] = {"hints": (), "probes": 100, "rate": 100.0, **changes}
        return BirthdayEasy(
            TOKEN,
            HARD,
            clock=lambda: self.now,
            rng=random.Random(7),
            **fields,  # type: ignore[arg-type]
        )

    def test_ports_are_distinct_and_the_rate_is_kept(self):
        core, sent = self.core(hints=(2000,)), []
        while not core.has_failed:
            timer = core.next_timer()
            assert timer is not None
            self.now = max(self.now, timer)
            sent += [(self.now, port) for _, port in core.poll()]
        assert len({port for _, port in sent}) == len(sent) == 100
        assert all(1024 <= port <= 65535 for _, port in sent)
        assert sum(t < 0.5 for t, _ in sent) <= 51

    def test_only_answers_from_where_it_has_sent_count(self):
        core = self.core(probes=1)
        ((_, port),) = core.poll()
        answer = encode(Kind.ANSWER, TOKEN)
        assert not core.receive(answer, (HARD, port % 65535 + 1))
        assert not core.receive(answer, (EASY, port))
        assert not core.receive(encode(Kind.PROBE, TOKEN), (HARD, port))
        assert not core.receive(answer[:-1], (HARD, port))
        assert core.receive(answer, (HARD, port))
        assert core.meeting == (HARD, port)

    def test_hints_at_the_end_of_the_range_wrap(self):
        core = self.core(hints=(65_535,), probes=2000, rate=1000.0)
        ports = set()
        while not core.has_failed:
            self.now += 0.01
            ports |= {port for _, port in core.poll()}
        assert set(range(1024, 1024 + 512)) <= ports


class TestDatagrams:
    @pytest.mark.parametrize("kind", Kind)
    def test_they_are_nothing_else(self, kind):
        datagram = encode(kind, TOKEN)
        assert len(datagram) == SIZE <= 40
        assert decode(datagram, TOKEN) is kind
        assert not datagram[0] & 0x40  # QUIC
        assert datagram[0] > 3  # STUN
        assert not is_path_message(datagram)
        assert not is_fec(datagram)
        assert decode(datagram, bytes(16)) is None


def side(mapping=EIM, filtering=APDM, at=EASY) -> Hello:
    return Hello(TOKEN, mapping, filtering, ((at, 4001),) if at else ())


class TestRoles:
    @pytest.mark.parametrize("mapping", [ADM, APDM])
    def test_the_dependent_mapping_is_the_hard_side(self, mapping):
        hard = side(mapping, APDM, HARD)
        assert role_of(hard, side()) is Role.HARD
        assert role_of(side(), hard) is Role.EASY
        assert role_of(hard, side(filtering=None)) is Role.HARD  # not known: it may be needed

    @pytest.mark.parametrize(
        ("own", "peer", "why"),
        [
            (side(APDM, APDM, HARD), side(APDM), "both sides are behind endpoint-dependent NATs"),
            (side(at=HARD), side(), "neither side"),
            (side(APDM, APDM, HARD), side(filtering=EIM), "does not look at ports"),
            (side(filtering=ADM), side(APDM, APDM, HARD), "does not look at ports"),
            (side(APDM, APDM, HARD), side(at=HARD), "behind the same NAT"),
            (side(APDM, APDM, HARD), side(at=None), "the peer is not seen"),
            (side(at=None), side(APDM), "this node is not seen"),
            (side(APDM, APDM, HARD), side(mapping=None), "NAT of the peer maps"),
        ],
    )
    def test_where_it_does_not_apply_it_says_why(self, own, peer, why):
        with pytest.raises(NotApplicable, match=why):
            role_of(own, peer)

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.1.1", "224.0.0.1",
         "239.1.1.1", "0.0.0.0", "255.255.255.255", "100.64.0.1", "198.51.100.1", EASY],
    )  # fmt: skip
    def test_nothing_is_sent_to_what_is_no_public_address_of_another(self, host):
        with pytest.raises(NotApplicable):
            check_target(ip_address(host), frozenset({ip_address(EASY)}))

    def test_a_public_address_is_fine(self):
        check_target(ip_address(HARD), frozenset({ip_address(EASY)}))


class TestMessages:
    @pytest.mark.parametrize(
        "message",
        [
            Hello(TOKEN, APDM, ADM, (("1.2.3.4", 1), ("1.2.3.4", 65535))),
            Hello(TOKEN),
            Refusal("no", temporary=True),
            Refusal(""),
            Ready(256),
            Met(1),
        ],
    )
    def test_there_and_back(self, message):
        assert messages.decode(messages.encode(message)) == message

    def test_hello_says_what_the_report_says(self):
        addresses = tuple((f"11.0.0.{i}", i + 1) for i in range(20))
        report = NatReport(mapping=APDM, filtering=ADM, mapped=(("::1", 1, 0, 0), *addresses))
        made = messages.hello(TOKEN, report)
        assert made.is_hard
        assert made.mapped == addresses[-messages.MAX_MAPPED :]
        assert not messages.hello(TOKEN, NatReport()).is_hard

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff",
            bytes(messages.MAX_MESSAGE + 1),
            messages.encode(Hello(b"short")),
            messages.encode(Hello(TOKEN, mapped=(("1.2.3.4", 0),))),
            messages.encode(Hello(TOKEN, mapped=(("1.2.3.4", 70_000),))),
            messages.encode(Hello(TOKEN, mapped=(("1.2.3.4", 5),) * 9)),
            messages.encode(Ready(0)),
            messages.encode(Met(65_536)),
        ],
    )
    def test_nonsense_is_refused(self, data):
        with pytest.raises(RemoteProtocolError):
            messages.decode(data)

    def test_a_reason_is_fit_for_a_terminal(self):
        assert messages.decode(messages.encode(Refusal("a\x1b[31mb"))) == Refusal("a?[31mb")
        assert messages.decode(messages.encode(Refusal("x" * 900))) == Refusal("x" * 200)


class TestBudget:
    now = 0.0

    def budget(self, per_address: int = 10, per_hour: int = 25) -> ProbeBudget:
        return ProbeBudget(per_address, per_hour, clock=lambda: self.now)

    def test_an_address_gets_its_share_and_no_more(self):
        budget = self.budget()
        assert sum(budget.take("a") for _ in range(100)) == 10
        assert sum(budget.take("b") for _ in range(100)) == 10
        assert sum(budget.take("c") for _ in range(100)) == 5  # what is left for all
        self.now = 1800.0
        assert sum(budget.take("a") for _ in range(100)) == 5

    def test_what_costs_more_is_had_less_often(self):
        budget = self.budget()
        assert sum(budget.take("a", 4) for _ in range(100)) == 2
        assert sum(budget.take("a") for _ in range(100)) == 2

    def test_many_addresses_do_not_wash_out_one(self):
        budget = self.budget(per_hour=1 << 20)
        assert sum(budget.take("a") for _ in range(10)) == 10
        assert sum(budget.take(str(i)) for i in range(2 * MAX_ADDRESSES)) == MAX_ADDRESSES - 1
        assert not budget.take("a")
        self.now = 3600.0
        assert budget.take("new")

    @pytest.mark.parametrize(
        "fields",
        [
            {"sockets": 1},
            {"probes": 0},
            {"rate": 0},
            {"per_hour": 1},
            {"timeout": 0},
            {"runs_per_hour": 0},
        ],
    )
    def test_settings_are_checked(self, fields):
        with pytest.raises(ConfigError):
            BirthdayConfig(**fields)
