"""The log: what is admitted, what waits, and what a fork costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from lattica.crdt.entries.chain import verify_chain
from lattica.crdt.entries.fork import find_fork
from lattica.crdt.entries.genesis import Genesis, Limits
from lattica.crdt.entries.header import Entry, Header, Kind
from lattica.crdt.entries.writing import sign_entry
from lattica.crdt.log import dependencies as dependencies_module
from lattica.crdt.log.config import LogConfig
from lattica.crdt.log.dependencies import Dependencies
from lattica.crdt.log.own import prepare
from lattica.crdt.log.waiting import MAX_BYTES, WaitingEntries
from lattica.errors import ConfigError, LocalProtocolError, RemoteProtocolError, ResourceLimitError
from lattica.nat.base.limits.places import Source
from tests.support.crdt.chains import DOC, START, Writer
from tests.support.crdt.logs import NOW, MemoryLog


def after(writer: Writer, before: Entry, *deps: bytes, hlc: int | None = None) -> Entry:
    header = before.header
    return sign_entry(
        writer.session,
        DOC.doc_id,
        header.seq + 1,
        before.id,
        header.hlc + 1 if hlc is None else hlc,
        Kind.REGISTER,
        b"\xc0",
        tuple(sorted(deps)),
    )


def test_a_chain_is_admitted_in_order_once():
    replica, chain = MemoryLog(), Writer(b"a").chain(5)
    assert replica.receive(chain).admitted == list(chain)
    assert replica.receive(chain).admitted == []
    feed = replica.log.feeds[chain[0].header.author]
    assert feed.ids == [entry.id for entry in chain]
    assert feed.identity == Writer(b"a").identity.public_key.data
    assert feed.size == sum(len(e.header.encoded) + len(e.payload or b"") for e in chain)


def test_pieces_in_any_order_come_to_the_same():
    replica, chain = MemoryLog(), Writer(b"a").chain(6)
    assert replica.receive(chain[4:]).waiting == 2
    assert replica.receive(chain[2:4]).admitted == []
    assert replica.receive(chain[2:5]).waiting == 0
    assert replica.receive(chain[:2]).admitted == list(chain)


def test_an_entry_waits_for_what_it_depends_on():
    replica = MemoryLog()
    writer, other = Writer(b"a"), Writer(b"b").chain(3)
    chain = writer.chain(2)
    dependent = after(writer, chain[-1], other[2].id, chain[0].id)
    last = after(writer, dependent)
    assert replica.receive([*chain, dependent, last]).admitted == list(chain)
    assert replica.receive(other[:2]).admitted == list(other[:2])
    assert replica.receive(other[2:]).admitted == [other[2], dependent, last]


@pytest.mark.parametrize("value", ["another", "third"])
def test_a_fork_is_proved_and_the_prefix_stays(value):
    replica, chain = MemoryLog(), Writer(b"a").chain(5)
    other = Writer(b"a").chain(5, value)
    replica.receive(chain)
    outcome = replica.receive(other)
    assert [proof.seq for proof in outcome.forks] == [1]
    assert outcome.admitted == []
    assert replica.log.feeds[chain[0].header.author].ids == [chain[0].id]
    assert not replica.log.feeds[chain[0].header.author].may_grow
    assert replica.receive(chain).admitted == replica.receive(other).admitted == []
    assert replica.receive(other).forks == []


def test_a_fork_that_shows_in_a_link_is_proved_without_its_entry():
    replica, chain = MemoryLog(), Writer(b"a").chain(3)
    other = Writer(b"a").chain(4, "other")
    replica.receive(chain)
    assert [proof.seq for proof in replica.receive(other[3:]).forks] == [2]


def test_a_fork_among_what_waits_is_proved():
    replica, chain = MemoryLog(), Writer(b"a").chain(5)
    other = Writer(b"a").chain(5, "other")
    replica.receive(chain[3:])
    assert [proof.seq for proof in replica.receive(other[3:]).forks] == [3]
    assert replica.receive(chain[:3]).admitted == list(chain[:3])
    replica = MemoryLog()
    replica.receive(other[3:])
    # Here the link is what does not fit.
    assert [proof.seq for proof in replica.receive(chain[:3]).forks] == [2]


def test_a_proof_that_comes_first_cuts_what_comes_later():
    chain, other = Writer(b"a").chain(5), Writer(b"a").chain(5, "other")
    late, early = MemoryLog(), MemoryLog()
    proof = find_fork(chain[2], other[2])
    assert proof is not None
    assert early.receive_fork(proof).forks == [proof]
    assert early.receive(chain).admitted == list(chain[:2])
    late.receive(chain)
    late.receive_fork(proof)
    assert early.state == late.state
    lower = find_fork(chain[1], other[1])
    assert lower is not None
    assert early.receive_fork(lower).forks == [lower]
    assert early.receive_fork(proof).forks == []
    assert early.state == {chain[0].header.author: ([chain[0].id], 1)}


def test_what_others_depend_on_stays_behind_a_fork():
    replica = MemoryLog()
    chain, forked = Writer(b"a").chain(4), Writer(b"a").chain(4, "other")
    honest = Writer(b"h")
    mine = honest.chain(2)
    built_on_it = after(honest, mine[-1], chain[2].id)
    proof = find_fork(chain[1], forked[1])
    assert proof is not None
    replica.receive_fork(proof)
    replica.receive(mine)
    replica.receive([built_on_it])
    outcome = replica.receive(chain)
    # And the one before it, on which that one is built.
    assert outcome.tombstones == [chain[1], chain[2]]
    assert outcome.admitted == [chain[0], built_on_it]


def test_a_signature_that_was_exchanged_on_the_way_is_asked_for_and_then_the_fork_is_proved():
    replica = MemoryLog()
    chain, other = Writer(b"a").chain(4), Writer(b"a").chain(4, "other")
    spoiled = [replace(entry, signature=bytes(64)) for entry in chain[:-1]]
    replica.receive([*spoiled, chain[-1]])
    assert not replica.receive(chain[:2]).resigned  # nobody needs it yet
    with pytest.raises(RemoteProtocolError, match="proves no fork"):
        replica.receive(other)
    assert replica.receive(chain[:2]).resigned == [chain[1]]
    assert not replica.receive(chain[:2]).resigned
    assert [proof.seq for proof in replica.receive(other).forks] == [1]


def test_entries_from_the_future_wait_and_keep_nobody_else_from_writing():
    replica = MemoryLog(config=LogConfig(max_future=10.0))
    writer = Writer(b"a")
    chain = writer.chain(2)
    future = after(writer, chain[-1], hlc=(NOW + 60_000) << 16)
    outcome = replica.receive([*chain, future])
    assert outcome.admitted == list(chain)
    assert outcome.refusals == []
    assert replica.log.clock.tick(NOW) < future.header.hlc
    assert replica.keep(replica.log.advance(NOW + 49_999)).admitted == []
    assert replica.keep(replica.log.advance(NOW + 50_000)).admitted == [future]


def test_whose_clock_is_behind_is_told_so():
    replica = MemoryLog()
    for name in (b"a", b"b"):
        writer = Writer(name)
        chain = writer.chain(2)
        replica.receive(chain)
        assert replica.log.behind(NOW) == 0
        replica.receive([after(writer, chain[-1], hlc=(NOW + 3_600_000) << 16)])
    assert replica.log.behind(NOW) == 3_600_000


def test_time_that_does_not_go_on_is_refused_across_chains():
    replica, writer = MemoryLog(), Writer(b"a")
    chain = writer.chain(3)
    replica.receive(chain)
    back = after(writer, chain[-1], hlc=chain[-1].header.hlc)
    (refusal,) = replica.receive([back]).refusals
    assert (refusal.seq, refusal.is_final) == (3, True)


def test_the_quota_of_the_genesis_is_kept_to_the_byte():
    chain = Writer(b"a").chain(4)
    for limit, count in ((0, 4), (-1, 3)):
        genesis = replace(DOC, limits=Limits(author_bytes=sum(e.size for e in chain) + limit))
        mine = Writer(b"a", genesis).chain(4)
        assert [e.size for e in mine] == [e.size for e in chain]
        outcome = MemoryLog(genesis).receive(mine)
        assert len(outcome.admitted) == count
        assert [refusal.is_final for refusal in outcome.refusals] == [True] * (4 - count)


def test_a_payload_larger_than_the_document_allows_is_refused_even_if_it_is_left_out():
    genesis = replace(DOC, limits=Limits(entry_bytes=10))
    writer = Writer(b"a", genesis)
    first = writer.chain(1)
    long = replace(writer.next(first[0], (START + 1) << 16, "x" * 20), payload=None)
    outcome = MemoryLog(genesis).receive([*first, long])
    assert outcome.admitted == list(first)
    assert [refusal.seq for refusal in outcome.refusals] == [1]


def test_a_chain_without_a_certificate_or_with_a_strangers_is_refused():
    writer = Writer(b"a")
    chain = writer.chain(2)
    outcome = MemoryLog().receive([replace(chain[0], payload=None), chain[1]])
    assert (outcome.admitted, len(outcome.refusals)) == ([], 1)
    certificate = Writer(b"b").session.certificate(writer.identity, DOC.doc_id).encode()
    false = sign_entry(
        writer.session, DOC.doc_id, 0, DOC.doc_id, START << 16, Kind.SESSION, certificate
    )
    verify_chain([false])
    replica = MemoryLog()
    assert "certificate" in replica.receive([false]).refusals[0].reason
    assert replica.log.feeds == {}


def test_a_flood_is_slowed_down_and_not_lost():
    chain = Writer(b"a").chain(20)
    size = sum(entry.size for entry in chain[:10])
    replica = MemoryLog(config=LogConfig(author_burst=size + 100.0, author_rate=size / 10))
    assert len(replica.receive(chain[:10], now=0.0).admitted) == 10
    (refusal,) = replica.receive(chain[10:], now=1.0).refusals
    assert not refusal.is_final
    assert len(replica.receive(chain[10:], now=12.0).admitted) == 10


def test_what_waits_is_bounded_per_author_and_per_peer():
    replica, chain = MemoryLog(), Writer(b"a").chain(400)
    outcome = replica.receive(chain[1:])
    assert outcome.waiting == 256
    assert [refusal.is_final for refusal in outcome.refusals] == [False]
    assert len(replica.receive(chain[:1]).admitted) == 257
    assert len(replica.receive(chain[257:]).admitted) == 143


def test_what_waits_is_bounded_in_all_and_whoever_has_most_yields():
    waiting = WaitingEntries()

    def entry(number: int, size: int = 1 << 20) -> Entry:
        author = number.to_bytes(32, "big")
        kind, nothing = int(Kind.REGISTER), bytes(32)
        header = Header(DOC.doc_id, author, 1, nothing, (), 1, kind, nothing, size)
        return Entry(header, bytes(64), bytes(size))

    for number in range(40):
        waiting.add(entry(number), f"key {number % 10} of an enemy")
    assert MAX_BYTES - (2 << 20) < len(waiting) << 20 <= MAX_BYTES
    before = {*waiting.authors()}
    assert not waiting.add(entry(100, 7 << 20), "who wants more than anybody has")
    assert waiting.add(entry(101), "who has nothing yet")
    assert len(before - {*waiting.authors()}) == 4, "all of one peer"
    waiting.drop(entry(101).header.author)
    assert entry(101).header.author not in waiting


def test_of_what_waits_networks_have_their_share():
    """An enemy of many keys had each of them keep little, so that whoever is honest had most."""
    waiting = WaitingEntries()

    def entry(number: int) -> Entry:
        author = number.to_bytes(32, "big")
        kind, nothing = int(Kind.REGISTER), bytes(32)
        header = Header(DOC.doc_id, author, 1, nothing, (), 1, kind, nothing, 1 << 20)
        return Entry(header, bytes(64), bytes(1 << 20))

    honest = [entry(number) for number in range(4)]
    assert all(waiting.add(each, Source("honest", "there")) for each in honest)
    taken = [waiting.add(entry(10 + number), Source(number, "here")) for number in range(60)]
    assert not taken[-1]
    assert all(each.header.author in waiting for each in honest)
    assert waiting.add(entry(90), Source("another", "elsewhere"))
    assert waiting.add(entry(91), Source("honest", "there"))
    assert all(each.header.author in waiting for each in honest)
    for author in waiting.authors():
        waiting.drop(author)
    assert not waiting._bytes._networks
    assert not waiting._total


def test_who_waits_for_something_waits_for_nothing_else():
    one, other, author = (Writer(name) for name in (b"one", b"other", b"author"))
    [certificate] = author.chain(1)
    dependencies = Dependencies()
    for dep in (one, other):
        assert not dependencies.is_met(after(author, certificate, dep.chain(1)[0].id))
    assert dependencies.unblocked(one.chain(1)) == []
    assert dependencies.unblocked(other.chain(1)) == [author.author]
    assert dependencies.unblocked(other.chain(1)) == []


def test_of_whom_it_is_forgotten_that_he_waits_is_admitted_when_he_is_heard_again(monkeypatch):
    monkeypatch.setattr(dependencies_module, "MAX_BLOCKED", 1)
    replica, needed = MemoryLog(), [Writer(name).chain(1) for name in (b"x", b"y")]
    chains = []
    for name, (dep,) in zip((b"a", b"b"), needed, strict=True):
        writer = Writer(name)
        [first] = writer.chain(1)
        chains.append([first, after(writer, first, dep.id)])
        assert replica.receive(chains[-1]).waiting == 1
    assert len(replica.receive(needed[0]).admitted) == 1, "and nothing that waited for it"
    assert len(replica.receive(needed[1]).admitted) == 2
    assert replica.receive(chains[0]).admitted == chains[0][1:]


def test_authors_are_bounded():
    replica = MemoryLog(config=LogConfig(max_authors=1))
    replica.receive(Writer(b"a").chain(2))
    outcome = replica.receive(Writer(b"b").chain(2))
    assert [refusal.is_final for refusal in outcome.refusals] == [False]
    assert len(replica.log.feeds) == 1
    proof = find_fork(Writer(b"b").chain(2)[1], Writer(b"b").chain(2, "other")[1])
    assert proof is not None
    assert replica.receive_fork(proof).forks == []


def test_entries_of_another_document_are_refused():
    with pytest.raises(RemoteProtocolError, match="another document"):
        MemoryLog(Genesis("other")).receive(Writer(b"a").chain(1))


def test_what_is_written_here_is_a_chain_and_later_than_all_that_was_seen():
    replica, writer = MemoryLog(), Writer(b"own")
    other = Writer(b"a").chain(3)
    replica.receive(other)
    identity = writer.identity.public_key.data
    first = prepare(
        replica.log, writer.session, writer.identity, [(Kind.REGISTER, b"\xc0", ())], START - 5_000
    )
    assert (
        prepare(
            replica.log, writer.session, writer.identity, [(Kind.REGISTER, b"\xc0", ())], START
        )[0].header.seq
        == 0
    )
    verify_chain(first)
    assert [entry.header.kind for entry in first] == [Kind.SESSION, Kind.REGISTER]
    assert first[0].header.hlc > other[-1].header.hlc
    assert replica.keep(replica.log.commit(first, identity, NOW)).admitted == first
    more = prepare(
        replica.log,
        writer.session,
        writer.identity,
        [(Kind.REGISTER, b"\xc0", (other[0].id,))] * 2,
        NOW,
    )
    replica.keep(replica.log.commit(more, identity, NOW))
    fresh = MemoryLog()
    fresh.receive(other)
    assert fresh.receive([*first, *more]).admitted == [*first, *more]


def test_what_cannot_be_written_here_is_said():
    writer = Writer(b"own")
    genesis = replace(DOC, limits=Limits(entry_bytes=10, author_bytes=1000))
    log = MemoryLog(genesis).log
    write = (writer.session, writer.identity)
    with pytest.raises(LocalProtocolError, match="11 bytes"):
        prepare(log, *write, [(Kind.REGISTER, bytes(11), ())], NOW)
    with pytest.raises(LocalProtocolError, match="not here"):
        prepare(log, *write, [(Kind.REGISTER, b"\xc0", (bytes(32),))], NOW)
    with pytest.raises(ResourceLimitError, match="1000 bytes"):
        prepare(log, *write, [(Kind.REGISTER, b"\xc0", ())] * 6, NOW)
    replica = MemoryLog()
    proof = find_fork(Writer(b"own").chain(2)[1], Writer(b"own").chain(2, "other")[1])
    assert proof is not None
    replica.receive_fork(proof)
    with pytest.raises(LocalProtocolError, match="contradicted itself"):
        prepare(replica.log, *write, [(Kind.REGISTER, b"\xc0", ())], NOW)


@pytest.mark.parametrize(
    "wrong", [{"max_authors": 0}, {"max_future": 0}, {"author_rate": 0}, {"author_burst": -1}]
)
def test_a_configuration_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigError):
        LogConfig(**wrong)


def spoiled(*entries: Entry) -> list[Entry]:
    """Of which only the last is signed by itself."""
    return [*(replace(each, signature=bytes(64)) for each in entries[:-1]), entries[-1]]


def ids(entries: Iterable[Entry]) -> list[bytes]:
    return [each.id for each in entries]


LIMITED = Genesis("limited", limits=Limits(entry_bytes=64))


def test_what_only_one_that_breaks_a_rule_vouches_for_does_not_count():
    """Others could not be given it, and two such branches would stay apart for ever."""
    writer = Writer(b"a", LIMITED)
    chain = [*writer.chain(3)]
    chain.append(writer.next(chain[-1], chain[-1].header.hlc + 1, "x" * 100))
    for cut in (0, 1, 2):
        replica = MemoryLog(LIMITED)
        signed = [replace(each, signature=bytes(64)) for each in chain]
        signed[cut], signed[3] = chain[cut], chain[3]
        outcome = replica.receive(signed)
        assert ids(outcome.admitted) == ids(chain[: cut + 1])
        feed = replica.log.feeds[writer.author]
        assert (len(feed.ids), feed.hlc) == (cut + 1, chain[cut].header.hlc)
        assert feed.size == sum(each.size for each in chain[: cut + 1])
        # With another one behind it, or its own signature, it counts.
        assert replica.receive(chain[:3]).admitted == chain[cut + 1 : 3]
    replica = MemoryLog(LIMITED)
    assert replica.receive(spoiled(*chain)).admitted == []
    assert replica.state == {}
    assert ids(replica.receive(spoiled(*chain[:3])).admitted) == ids(chain[:3])


def test_what_is_not_signed_waits_for_what_is_and_depends_on_another():
    writer, other = Writer(b"a"), Writer(b"b").chain(2)
    chain = writer.chain(3)
    dependent = after(writer, chain[-1], other[1].id)
    replica = MemoryLog()
    outcome = replica.receive(spoiled(*chain, dependent))
    assert (outcome.admitted, outcome.waiting) == ([], 4)
    assert ids(replica.receive(other).admitted) == ids([*other, *chain, dependent])
    # One that is early; and in pieces, of which the end comes first.
    early = after(writer, chain[-1], hlc=(NOW + 70_000) << 16)
    replica = MemoryLog()
    assert replica.receive(spoiled(*chain[1:], early)).waiting == 3
    assert replica.receive(chain[:1]).admitted == [chain[0]]
    outcome = replica.keep(replica.log.advance(NOW + 20_000))
    assert ids(outcome.admitted) == ids([*chain[1:], early])


def test_an_entry_without_its_payload_is_had_from_others():
    """A relay that leaves payloads out takes nothing away."""
    chain = Writer(b"a").chain(4)
    for place in range(4):
        replica = MemoryLog()
        entries = [*chain]
        entries[place] = replace(chain[place], payload=None)
        outcome = replica.receive(entries)
        assert outcome.admitted == [*chain[:place]]
        assert [each.is_final for each in outcome.refusals] == [False]
        assert replica.receive(chain).admitted == [*chain[place:]]
