"""What a node keeps for others: what is taken, what is refused, and for how long."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lattica.dht.kademlia.contact import Contact
from lattica.dht.records.data import encode_data
from lattica.dht.records.keys import content_key, peer_key, value_key
from lattica.dht.records.plain import STANDARD, check_plain
from lattica.dht.records.signed_value import seal_value
from lattica.dht.store.config import StoreConfig
from lattica.dht.store.records import KINDS, RecordStore
from lattica.dht.store.rows import Kind, Row, RowId
from lattica.dht.store.values import Put
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId
from lattica.nat.base.keys.peer_record import seal_record
from lattica.nat.base.net.multiaddr import Multiaddr

NOW = 1_800_000_000.0
PEERS = [Identity(bytes([n]) * 32) for n in range(1, 5)]
ME, OTHER = PEERS[:2]
KEY = value_key("key")
ADDR = Multiaddr("/ip4/192.0.2.1/tcp/4001")
HERE, THERE = "198.51.100.0/24", "203.0.113.0/24"


def sealed(identity=ME, subkey=b"", content=1, sequence=1, ttl=60.0, key=KEY):
    expires = int((NOW + ttl) * 1000)
    return seal_value(
        identity, key, subkey, encode_data(content), sequence=sequence, expires=expires
    )


def test_the_higher_sequence_wins_and_a_replayed_old_value_does_not():
    store = RecordStore().values
    old, new = sealed(sequence=1), sealed(sequence=2, content=2)
    assert store.put(old, None, NOW) is Put.STORED
    assert store.put(new, None, NOW) is Put.STORED
    assert store.put(old, None, NOW) is Put.OLD
    assert store.put(new, None, NOW) is Put.KNOWN
    assert store.get(KEY, NOW) == ([new], b"")


def test_owners_and_subkeys_do_not_lose_each_other():
    store = RecordStore().values
    values = [sealed(who, sub) for who in PEERS for sub in (b"", b"one", b"two")]
    for value in random.Random(1).sample(values, len(values)):
        assert store.put(value, None, NOW) is Put.STORED
    assert {v.envelope for v in store.get(KEY, NOW)[0]} == {v.envelope for v in values}
    own, more = store.get(KEY, NOW, owner=ME.peer_id)
    assert {v.subkey for v in own} == {b"", b"one", b"two"}
    assert {v.owner for v in own} == {ME.peer_id}
    assert more == b""


def test_more_values_than_a_record_has_room_for_come_one_part_after_another():
    store = RecordStore().values
    values = [sealed(who, bytes([n]), "x" * 9_000) for who in PEERS for n in range(6)]
    for value in values:
        store.put(value, None, NOW)
    for owner in (None, ME.peer_id):
        found, after, parts = [], b"", 0
        while True:
            some, after = store.get(KEY, NOW, owner=owner, after=after)
            found += some
            parts += 1
            if not after:
                break
        wanted = [v for v in values if owner in (None, v.owner)]
        assert len(found) == len({v.place for v in found}) == len(wanted)
        assert parts == (4 if owner is None else 1)


def test_values_expire_by_this_clock_and_none_that_has_expired_is_taken():
    store = RecordStore(StoreConfig(max_ttl=3600.0)).values
    assert store.put(sealed(ttl=60.0), None, NOW) is Put.STORED
    assert store.get(KEY, NOW + 59)[0]
    assert not store.get(KEY, NOW + 60)[0]
    assert store.put(sealed(ttl=60.0), None, NOW + 61) is Put.EXPIRED
    # By a clock that is wrong by years:
    assert store.put(sealed(ttl=1e9), None, NOW) is Put.STORED
    assert store.get(KEY, NOW + 3599)[0]
    assert not store.get(KEY, NOW + 3601)[0]
    assert len(store) == store.size == 0


def test_quotas_of_values_hold_for_publishers_networks_and_all():
    config = StoreConfig(
        values_memory=40_000, values_per_publisher=12_000, values_per_network=20_000
    )
    store = RecordStore(config).values
    taken = [store.put(sealed(ME, bytes([n]), "x" * 2_000), HERE, NOW) for n in range(8)]
    assert taken.count(Put.STORED) == 4
    taken = [store.put(sealed(OTHER, bytes([n]), "x" * 2_000), HERE, NOW) for n in range(8)]
    assert taken.count(Put.STORED) == 3
    assert store.refused[Put.NO_ROOM] == 9
    assert store.size <= 40_000
    for who in PEERS[2:]:
        for number in range(8):
            store.put(sealed(who, bytes([number]), "x" * 2_000), THERE, NOW)
    assert store.size <= 40_000
    assert store.get(KEY, NOW, owner=ME.peer_id)[0]


def test_a_peers_newest_addresses_are_kept_and_longer_when_said_again():
    store = RecordStore().plain
    records = [
        check_plain(STANDARD, peer_key(ME.peer_id), seal_record(ME, seq, [ADDR])) for seq in (1, 2)
    ]
    key = records[0].key
    assert store.put(records[1], ME.peer_id, None, NOW) is Put.STORED
    assert store.put(records[0], OTHER.peer_id, None, NOW) is Put.OLD
    assert store.put(records[1], OTHER.peer_id, None, NOW + 20 * 3600) is Put.KNOWN
    assert store.get(key, NOW + 40 * 3600) == records[1]
    assert store.get(key, NOW + 45 * 3600) is None
    assert store.size == len(store) == 0


def test_content_of_anybody_has_a_small_quota():
    store = RecordStore().plain
    taken = []
    for number in range(40):
        content = bytes([number]) * 4000
        record = check_plain(STANDARD, content_key(content), content)
        taken.append(store.put(record, ME.peer_id, HERE, NOW))
    assert taken.count(Put.STORED) == 14
    record = check_plain(STANDARD, content_key(b"other"), b"other")
    assert store.put(record, OTHER.peer_id, HERE, NOW) is Put.STORED


def test_providers_come_go_and_expire():
    store = RecordStore(StoreConfig(provider_ttl=100.0, providers_per_key=3)).providers
    rng = random.Random(1)
    for who in PEERS[:3]:
        assert store.add(b"k", Contact.of(who.peer_id, [ADDR]), None, NOW) is Put.STORED
    assert store.add(b"k", Contact.of(PEERS[3].peer_id), None, NOW) is Put.NO_ROOM
    assert store.add(b"k", Contact.of(ME.peer_id, [ADDR]), None, NOW + 50) is Put.KNOWN
    assert len(store.get(b"k", NOW + 50, 2, rng)) == 2
    assert store.remove(b"k", OTHER.peer_id)
    assert not store.remove(b"k", OTHER.peer_id)
    assert {c.peer_id for c in store.get(b"k", NOW + 50, 9, rng)} == {
        ME.peer_id,
        PEERS[2].peer_id,
    }
    assert store.get(b"k", NOW + 120, 9, rng) == [Contact.of(ME.peer_id, [ADDR])]
    assert store.get(b"k", NOW + 160, 9, rng) == []
    assert len(store) == 0
    assert not store._addrs


def provider(number: int) -> Contact:
    return Contact.of(PeerId(b"\x12\x20" + number.to_bytes(32, "big")), [ADDR])


def test_many_ids_of_one_network_keep_no_other_provider_out():
    """They are there first, and as many as a key may have."""
    store = RecordStore(StoreConfig(providers_per_key=100)).providers
    for number in range(200):
        put = store.add(b"k", provider(number), HERE, NOW)
        assert put is (Put.STORED if number < 100 else Put.NO_ROOM)
    honest = [provider(1000 + number) for number in range(20)]
    for contact in honest:
        assert store.add(b"k", contact, THERE, NOW) is Put.STORED
    assert store.add(b"k", provider(300), HERE, NOW) is Put.NO_ROOM
    known = store.get(b"k", NOW, 1000, random.Random(1))
    assert len(known) == len(store) == 100
    assert set(honest) <= set(known)
    # Who asks is told of both networks as often.
    told = store.get(b"k", NOW, 30, random.Random(1))
    assert len(set(told)) == 30
    assert sum(contact in honest for contact in told) == 15
    # Two that have as much as each other do not drive each other out.
    for number in range(400, 500):
        store.add(b"k", provider(number), THERE, NOW)
    known = store.get(b"k", NOW, 1000, random.Random(1))
    assert sum(contact.peer_id == provider(number).peer_id for number in range(200)
               for contact in known) == 50  # fmt: skip


def test_providers_of_a_full_key_come_back_from_the_file_as_they_were():
    config = StoreConfig(providers_per_key=4)
    rows = Rows()
    store = RecordStore(config, journal=rows)
    for number in range(4):
        store.providers.add(b"k", provider(number), HERE, NOW)
    store.providers.add(b"k", provider(9), THERE, NOW)
    rows.write(store)
    back = RecordStore(config, journal=rows)
    back.load([Row(row_id, data) for row_id, data in rows.rows.items()], NOW)
    for one in (store, back):
        assert len(one.providers) == 4
        assert one.providers.has(b"k", provider(9).peer_id)
        assert one.providers.add(b"k", provider(10), THERE, NOW) is Put.STORED
        assert one.providers.add(b"k", provider(11), THERE, NOW) is Put.NO_ROOM


class Rows:
    """A file in memory."""

    def __init__(self) -> None:
        self.dirty: set[RowId] = set()
        self.rows: dict[RowId, bytes] = {}

    def changed(self, row_id: RowId) -> None:
        self.dirty.add(row_id)

    def write(self, store: RecordStore) -> None:
        for row_id in self.dirty:
            row = store.row(row_id)
            if row is None:
                self.rows.pop(row_id, None)
            else:
                self.rows[row_id] = row.data
        self.dirty.clear()


class StoreMachine(RuleBasedStateMachine):
    """Whatever is stored, what a store says after a restart is what it said before."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.file = Rows()
        self.config = StoreConfig(
            values_memory=6_000, values_per_publisher=4_000, providers=6, provider_ttl=50.0
        )
        self.store = RecordStore(self.config, journal=self.file)

    @rule(
        who=st.integers(0, 3),
        sub=st.sampled_from([b"", b"a", b"b"]),
        seq=st.integers(0, 3),
        ttl=st.integers(1, 200),
        size=st.integers(0, 900),
        net=st.sampled_from([None, HERE, THERE]),
    )
    def put(self, who, sub, seq, ttl, size, net):
        value = sealed(PEERS[who], sub, "x" * size, seq, self.now - NOW + ttl)
        if self.store.values.put(value, net, self.now).is_held:
            found, _ = self.store.values.get(KEY, self.now, owner=value.owner)
            assert value in found

    @rule(who=st.integers(0, 3), key=st.sampled_from([b"a", b"b", b"c"]))
    def provide(self, who, key):
        provider = Contact.of(PEERS[who].peer_id, [ADDR])
        put = self.store.providers.add(key, provider, HERE if who % 2 else THERE, self.now)
        assert put.is_held == self.store.providers.has(key, provider.peer_id)

    @rule(who=st.integers(0, 3), key=st.sampled_from([b"a", b"b", b"c"]))
    def withdraw(self, who, key):
        self.store.providers.remove(key, PEERS[who].peer_id)
        assert not self.store.providers.has(key, PEERS[who].peer_id)

    @rule(who=st.integers(0, 3), seq=st.integers(0, 3))
    def say_addresses(self, who, seq):
        key = peer_key(PEERS[who].peer_id)
        record = check_plain(STANDARD, key, seal_record(PEERS[who], seq, [ADDR]))
        self.store.plain.put(record, PEERS[who].peer_id, None, self.now)

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def restart(self):
        before = self.contents()
        self.file.write(self.store)
        rows = [row for row_id in self.file.rows if (row := self.store.row(row_id)) is not None]
        assert {row.row_id for row in rows} == set(self.file.rows)
        row_ids = list(self.store.row_ids())
        assert len(row_ids) == len(set(row_ids))
        assert set(row_ids) == set(self.file.rows)
        self.store = RecordStore(self.config, journal=self.file)
        self.store.load(rows, self.now)
        assert self.contents() == before

    def contents(self):
        rng = random.Random(1)
        self.store.expire(self.now)
        values = {v.envelope for v in self.store.values}
        providers = {
            (key, contact)
            for key in (b"a", b"b", b"c")
            for contact in self.store.providers.get(key, self.now, 9, rng)
        }
        plain = {self.store.plain.get(peer_key(who.peer_id), self.now) for who in PEERS}
        return values, providers, plain

    @invariant()
    def limits_hold(self):
        assert self.store.values.size <= 6_000
        assert len(self.store.providers) <= 6


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def test_rows_that_something_else_has_written_are_left_out():
    from lattica.dht.store.rows import Row

    store = RecordStore()
    contents = (b"", b"\xc1", b"\x94\x01\x02\x03\x04", b"\x92\x01\x02", b"\x91\x91\x01")
    ids = [RowId(kind, raw) for kind in KINDS for raw in (b"", b"\x05ab", b"x" * 40)]
    rows = [Row(row_id, data) for row_id in ids for data in contents]
    store.load(rows, NOW)
    assert len(store.values) == len(store.plain) == len(store.providers) == 0
    assert Kind.VALUE in KINDS
