"""Reading values from peers that answer with more than can be checked at once, or lie."""

from __future__ import annotations

import pytest
import trio

from lattica.dht.kademlia.messages import (
    MAX_MESSAGE,
    MessageType,
    Record,
    Response,
    decode_request,
    encode,
)
from lattica.dht.pb import records_pb2 as pb
from lattica.dht.records import signed_value
from lattica.dht.records.keys import value_key
from lattica.dht.records.signed_value import decode_envelopes, open_value, seal_value
from lattica.errors import IncompleteReadError, NotStoredError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.mux.stream import Stream
from tests.support.doubles.memory_dht import memory_dht_net

KEY = value_key("key")
NOW = 1_800_000_000.0


@pytest.fixture
def opened(monkeypatch) -> list[bytes]:
    """The envelopes whose signatures were checked."""
    seen: list[bytes] = []

    def noted(envelope: bytes, key: bytes):
        seen.append(envelope)
        return open_value(envelope, key)

    monkeypatch.setattr(signed_value, "open_value", noted)
    return seen


async def get_from_one(record: bytes, pages: int):
    """What a node finds where the only other one has a record, on so many pages; and whom it has
    found to send junk.
    """

    async def serve(stream: Stream) -> None:
        left = pages
        while True:
            try:
                request = decode_request(await stream.receive_message(MAX_MESSAGE))
            except IncompleteReadError:
                return
            answer = Response(request.type, request.key)
            if request.type is MessageType.GET_VALUE:
                left -= 1
                after = b"more" if left > 0 else b""
                answer = Response(request.type, KEY, Record(KEY, record), after=after)
            await stream.send_message(encode(answer))

    async with memory_dht_net(lambda: NOW) as net:
        host = net.host()
        dht = net.add()
        host.handle(dht.config.protocol, serve, owner="test")
        await host.connect(dht._host.peer_id)
        await dht.wait_ready()
        found = await dht.get("key")
        return found, dht._peers.junk[host.peer_id]


def values(count: int) -> list[signed_value.SignedValue]:
    owners = [Identity.generate() for _ in range(count)]
    return [seal_value(o, KEY, b"", b"\xc0", sequence=1, expires=1 << 42) for o in owners]


async def test_many_values_are_checked_a_few_at_a_time(autojump_clock, opened):
    # However many of them a peer tells of: the loop is held up for milliseconds.
    longest = 0
    record = signed_value.encode_values(values(100))

    class Passes(trio.abc.Instrument):
        before = 0

        def before_io_wait(self, timeout: float) -> None:
            nonlocal longest
            longest = max(longest, len(opened) - self.before)
            self.before = len(opened)

    passes = Passes()
    trio.lowlevel.add_instrument(passes)
    try:
        found, junk = await get_from_one(record, 1)
    finally:
        trio.lowlevel.remove_instrument(passes)
    assert len(found.values) == 100
    assert junk == 0
    assert longest == 32


async def test_who_sends_forged_values_is_read_no_further(autojump_clock, opened):
    right = values(40)
    forged = [v.envelope[:-1] + bytes([v.envelope[-1] ^ 1]) for v in values(100)]
    envelopes = [*(value.envelope for value in right), *forged]
    record = pb.Values(envelopes=envelopes).SerializeToString()
    assert len(decode_envelopes(record)) == 140
    found, junk = await get_from_one(record, 60)
    assert {value.owner for value in found.values} == {value.owner for value in right}
    assert junk == 24
    assert len(opened) == 64


@pytest.mark.parametrize(("age", "is_told"), [(3600, True), (5, False)])
async def test_a_value_that_has_expired_here_is_not_believed_and_its_reader_told_of_clocks(
    autojump_clock, caplog, age, is_told
):
    expires = int((NOW - age) * 1000)
    value = seal_value(Identity.generate(), KEY, b"", b"\xc0", sequence=1, expires=expires)
    found, junk = await get_from_one(signed_value.encode_values([value]), 1)
    assert (found, junk) == (None, 0)
    assert ("this machine's clock" in caplog.text) is is_told


async def test_whose_clock_is_behind_is_told_so_where_nobody_keeps_its_values(autojump_clock):
    async with memory_dht_net(lambda: NOW) as net:
        behind, other = net.add(clock=lambda: NOW - 7200), net.add()
        await behind._host.connect(other._host.peer_id)
        await behind.wait_ready()
        with pytest.raises(NotStoredError, match="doctor"):
            await behind.put("key", 1, ttl=3600)
        assert await behind.put("key", 1, ttl=10_000) == 1
