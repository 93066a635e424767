"""Who has moved how much in a month, and which limit ends it."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from lattica.nat.base.keys.identity import PeerId
from lattica.nat.traversal.relay.messages import Status
from lattica.nat.traversal.relay.server import quotas as module
from lattica.nat.traversal.relay.server.access import Lists, Standing
from lattica.nat.traversal.relay.server.books import Circuit, Refusal, RelayBooks
from lattica.nat.traversal.relay.server.limits import RelayLimits, StrangerLimits
from lattica.nat.traversal.relay.server.quotas import Ledger, Quotas, Whose


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


RELAY, ALICE, BOB, CAROL = map(peer, range(4))
HERE = ipaddress.ip_address("192.0.2.1")
FREE = RelayLimits(
    open_to_strangers=True, strangers_rate=0, for_strangers=StrangerLimits(0, 0, 0, 16)
)


class Granted(Lists):
    """Alice has a token with limits of her own."""

    def standing(self, peer):
        if peer == ALICE:
            return Standing(is_stranger=False, rate=100, month=1000, circuits=1)
        return super().standing(peer)


def books(quotas: Quotas, access: Lists | None = None) -> RelayBooks:
    made = RelayBooks(RELAY, FREE, access or Lists((), strangers=True), quotas)
    for who in (ALICE, BOB, CAROL):
        made.reserve(who, HERE, 0.0)
    return made


def circuit(server: RelayBooks, source=ALICE, target=BOB) -> Circuit:
    found = server.connect(source, target, HERE, 0.0)
    assert isinstance(found, Circuit), found
    return found


def refused(server: RelayBooks, source=ALICE, target=BOB) -> Refusal:
    found = server.connect(source, target, HERE, 0.0)
    assert isinstance(found, Refusal), found
    return found


def test_both_directions_count_for_both_ends_their_network_and_all():
    server = books(Quotas())
    one = circuit(server)
    one.account(0, 10, 0.0)
    one.account(1, 5, 0.0)
    used = {(w, n): u for w, n, u in server.ledger.take_changed()}
    assert used == {
        (Whose.TOTAL, ""): 15,
        (Whose.PEER, str(ALICE)): 15,
        (Whose.PEER, str(BOB)): 15,
        (Whose.NETWORK, "192.0.2.0/24"): 15,
    }
    assert server.ledger.take_changed() == []


def test_each_quota_of_a_month_is_named_and_holds_until_the_month_is_over():
    for name in ("month_per_peer", "month_per_network", "month_total"):
        server = books(Quotas(**{name: 100}))
        server.ledger.begin("2026-11")
        one = circuit(server)
        one.account(0, 60, 0.0)
        assert one.allowance(1) == 40
        one.account(1, 40, 0.0)
        assert one.allowance(0) == 0
        assert one.used_up() == name
        refusal = refused(server)
        assert (refusal.status, refusal.limit) == (Status.RESOURCE_LIMIT_EXCEEDED, name)
        assert {u.name: u.used / u.limit for u in server.usage()}[name] == 1.0
        server.ledger.begin("2026-12")
        assert one.allowance(0) == 100
        circuit(server)


def test_another_peer_goes_on_when_one_has_used_up_its_month():
    server = books(Quotas(month_per_peer=100))
    circuit(server, ALICE, BOB).account(0, 100, 0.0)
    assert refused(server, ALICE, CAROL).limit == "month_per_peer"
    assert refused(server, CAROL, BOB).limit == "month_per_peer"


def test_rates_are_shared_by_all_circuits_of_a_peer():
    server = books(Quotas(rate_per_peer=1000))
    first, second = circuit(server, ALICE, BOB), circuit(server, ALICE, CAROL)
    first.account(0, 1000, 0.0)
    # 250 bytes go at once; what the other circuit sends waits for the first.
    assert second.account(0, 500, 0.0) == 1.25


def test_a_token_has_limits_of_its_own():
    server = books(Quotas(month_per_peer=5), Granted((), strangers=True))
    one = circuit(server)
    assert one.meters[0].limit == 1000
    assert one.meters[0].rate == 100
    refusal = refused(server, ALICE, CAROL)
    assert refusal.limit == "token_circuits"
    server.close(one)
    circuit(server, ALICE, CAROL)


def test_reservations_of_everybody_have_a_limit():
    server = books(Quotas(reservations=3))
    refusal = server.reserve(peer(9), HERE, 0.0)
    assert isinstance(refusal, Refusal)
    assert refusal.limit == "reservations"
    assert not isinstance(server.reserve(ALICE, HERE, 0.0), Refusal)  # renewed


def test_a_restart_keeps_what_was_used():
    ledger = Ledger(Quotas(month_total=100))
    ledger.begin("2026-11")
    ledger.restore([(Whose.TOTAL, "", 70), (Whose.PEER, "a", 30)])
    assert ledger.total.used == 70
    assert ledger.of_peer("a").used == 30
    assert not ledger.begin("2026-11")
    assert ledger.begin("2026-12")
    assert ledger.total.used == 0


def test_what_could_not_be_kept_is_taken_again():
    server = books(Quotas())
    circuit(server).account(0, 10, 0.0)
    taken = server.ledger.take_changed()
    server.ledger.put_back(taken)
    assert sorted(map(str, server.ledger.take_changed())) == sorted(map(str, taken))


def test_peers_without_end_do_not_take_memory_without_end(monkeypatch):
    monkeypatch.setattr(module, "MAX_METERS", 100)
    ledger = Ledger(Quotas(month_per_peer=10))
    ledger.of_peer("busy").circuits = 1
    ledger.of_peer("heavy").used = 9
    for number in range(1000):
        ledger.of_peer(f"peer {number}")
    assert len(ledger._meters) <= 100
    assert ledger.of_peer("busy").circuits == 1
    assert ledger.of_peer("heavy").used == 9


PEERS = st.sampled_from([ALICE, BOB, CAROL])


@given(st.lists(st.tuples(PEERS, PEERS, st.integers(1, 500)), max_size=40))
def test_no_meter_counts_more_than_its_month(moves):
    server = books(Quotas(month_per_peer=700, month_total=1500))
    for source, target, size in moves:
        found = server.connect(source, target, HERE, 0.0)
        if isinstance(found, Refusal):
            continue
        allowed = found.allowance(0)
        assert allowed is not None
        found.account(0, min(size, allowed), 0.0)
        assert all(m.used <= m.limit for m in found.meters if m.limit)
        server.close(found)
        assert all(m.circuits == 0 for m in found.meters)
