"""Kademlia under any input: messages, the table's limits, and lookups that always end."""

from __future__ import annotations

import contextlib
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lattica.dht.kademlia import messages
from lattica.dht.kademlia.config import LookupConfig, TableConfig
from lattica.dht.kademlia.contact import Contact, common_prefix
from lattica.dht.kademlia.lookup import Lookup
from lattica.dht.kademlia.messages import MessageType, Record, Request, Response
from lattica.dht.kademlia.routing_table import RoutingTable
from lattica.errors import RemoteProtocolError
from lattica.nat.base.net.multiaddr import Multiaddr
from tests.support.dht.kademlia import contact

KEYS = st.binary(min_size=1, max_size=64)
ADDRS = st.builds(
    lambda ip, port: Multiaddr(f"/ip4/{ip}/tcp/{port}"),
    st.ip_addresses(v=4),
    st.integers(1, 65535),
)
CONTACTS = st.builds(
    lambda key, addrs: Contact.of(contact(key).peer_id, addrs),
    st.integers(0, 2**256 - 1),
    st.lists(ADDRS, max_size=messages.MAX_SENT_ADDRS, unique=True),
)
PEERS = st.lists(CONTACTS, max_size=30, unique_by=lambda c: c.key).map(tuple)


@st.composite
def exchanges(draw) -> tuple[Request, Response]:
    kind = draw(st.sampled_from(list(MessageType)))
    key = draw(KEYS)
    records = st.builds(Record, st.just(key), st.binary(max_size=99), st.text("0123:Z", max_size=9))
    record = draw(records) if kind is MessageType.PUT_VALUE else None
    adds = (MessageType.ADD_PROVIDER, MessageType.ADD_PROVIDERS)
    providers = draw(PEERS) if kind in adds else ()
    gets = kind is MessageType.GET_VALUE
    owner = draw(st.none() | CONTACTS.map(lambda c: c.peer_id)) if gets else None
    after = draw(st.binary(max_size=9))
    batches = (MessageType.ADD_PROVIDERS, MessageType.REMOVE_PROVIDERS)
    keys = tuple(draw(st.lists(KEYS, min_size=1, max_size=9))) if kind in batches else ()
    request = Request(kind, key, record, providers, owner, after if gets else b"", keys)
    done = draw(st.binary(max_size=9))
    answer = Response(kind, key, draw(st.none() | records), draw(PEERS), draw(PEERS), after, done)
    return request, answer


@given(exchanges())
def test_messages_survive_the_way(exchange):
    request, response = exchange
    assert messages.decode_request(messages.encode(request)) == request
    assert messages.decode_response(messages.encode(response), request) == response


@given(st.binary(max_size=200), exchanges())
def test_nonsense_is_a_message_or_the_peers_fault(data, exchange):
    with contextlib.suppress(RemoteProtocolError):
        messages.decode_request(data)
    with contextlib.suppress(RemoteProtocolError):
        messages.decode_response(data, exchange[0])


SMALL_KEYS = st.integers(0, 15).map(lambda n: n << 252)
GROUPS = st.none() | st.sampled_from("abc")
STEPS = st.lists(
    st.tuples(st.sampled_from(("answered", "failed", "removed")), SMALL_KEYS, GROUPS), max_size=80
)


@given(SMALL_KEYS, STEPS)
def test_a_table_keeps_its_limits_whatever_happens(own, steps):
    config = TableConfig(bucket=3, spares=2, group_in_bucket=2, group_in_table=3)
    table = RoutingTable(own, config, 0.0)
    groups: dict[int, str | None] = {}
    for now, (step, key, group) in enumerate(steps):
        if step == "answered":
            wanted = table.is_wanted(key, group)
            before = key in table
            entered = table.answered(contact(key), group, float(now))
            assert entered == (key in table)
            assert before or entered == wanted
            groups[key] = group
        elif step == "failed":
            table.failed(key)
        else:
            table.remove(key)
            assert key not in table
        inside = [c.key for c in table]
        assert len(inside) == len(table) == len(set(inside)) == sum(table.sizes().values())
        assert own not in inside
        assert all(size <= config.bucket for size in table.sizes().values())
        of_groups = Counter(g for k in inside if (g := groups[k]) is not None)
        assert max(of_groups.values(), default=0) <= config.group_in_table
        in_buckets = Counter(
            (common_prefix(own, k), g) for k in inside if (g := groups[k]) is not None
        )
        assert max(in_buckets.values(), default=0) <= config.group_in_bucket


@given(
    st.integers(0, 2**256 - 1),
    st.integers(0, 2**256 - 1),
    st.sets(st.integers(0, 2**256 - 1), max_size=60),
    st.integers(1, 25),
)
def test_the_closest_are_those_with_the_smallest_distance(own, target, keys, count):
    table = RoutingTable(own, TableConfig(), 0.0)
    inside = [key for key in keys if table.answered(contact(key), None, 0.0)]
    expected = sorted(inside, key=lambda key: key ^ target)[:count]
    assert [c.key for c in table.closest(target, count)] == expected


@given(st.data())
def test_a_lookup_ends_whatever_peers_say(data):
    """Answers, failures and silence in any order, for any peers."""
    config = LookupConfig(count=4, paths=2, near=2, max_queries=20)
    keys = st.integers(0, 31).map(lambda n: n << 251)
    told = st.lists(keys.map(contact), max_size=8)
    lookup = Lookup(0, data.draw(told), config, own=0)
    now, open_keys, asked = 0.0, [], []
    answered: set[int] = set()
    for _ in range(500):
        if lookup.is_done:
            break
        new = [c.key for c in lookup.next_queries(now)]
        asked += new
        open_keys += new
        step = data.draw(st.sampled_from(("answer", "fail", "wait")))
        if step == "wait" or not open_keys:
            # Waiting may have been its end.
            assert lookup.deadline < float("inf") or not lookup.next_queries(now)
            now = max(now, min(lookup.deadline, now + config.timeout))
            continue
        key = open_keys.pop(data.draw(st.integers(0, len(open_keys) - 1)))
        if step == "fail":
            lookup.failed(key)
        else:
            lookup.answered(key, data.draw(told), now)
            answered.add(key)
    assert lookup.is_done
    assert len(asked) == len(set(asked)) == lookup.queries <= config.max_queries
    assert 0 not in asked
    found = [c.key for c in lookup.closest()]
    assert found == sorted(found)
    assert set(found) <= answered
    assert len(found) == min(len(answered), config.count)
