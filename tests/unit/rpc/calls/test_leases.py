"""Buffers that are lent: read where they lie, by whom they were lent to, as long as it lives."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import trio

from lattica.errors import AddressError, LocalProtocolError
from lattica.nat.base.keys.identity import Identity
from lattica.rpc import (
    BufferRef,
    CallContext,
    DataLossError,
    InvalidArgumentError,
    LeaseEnd,
    NotFoundError,
    OutOfRangeError,
    ResourceExhaustedError,
    RpcConfig,
    UnavailableError,
    open_rpc,
)
from lattica.rpc.lending import lending
from tests.support.rpc.pair import Pair, rpc_pair

CACHE = np.arange(200_000, dtype=np.float32).reshape(500, 400)
DEATH = 15.0


class Owner:
    """Lends to whoever asks."""

    def __init__(self) -> None:
        self.refs: list[BufferRef] = []
        self.seen: list[float] = []

    async def cache(self, ctx: CallContext, ttl: float = 20.0) -> BufferRef:
        self.refs.append(ctx.share(CACHE, ttl))
        return self.refs[-1]

    def from_a_thread(self, ctx: CallContext) -> dict[str, BufferRef]:
        self.refs.append(ctx.share(CACHE))
        return {"cache": self.refs[-1]}

    async def use(self, ref: BufferRef) -> float:
        return float((await ref.read(slice(0, 2))).sum())


def owner_of(pair: Pair) -> tuple[Owner, Owner]:
    """The service of a pair's server, and its stub."""
    owner = Owner()
    pair.server.serve(owner)
    return owner, pair.client.stub(pair.server_host.peer_id, Owner)


async def test_parts_are_read_from_where_they_lie() -> None:
    """By the real clock: the virtual one jumps while a thread sums, or a handler runs in one."""
    async with rpc_pair() as pair:
        _, stub = owner_of(pair)
        ref = await stub.cache()  # type: ignore[call-arg]
        assert (ref.shape, ref.dtype, ref.size) == ((500, 400), "float32", CACHE.nbytes)
        assert ref.owner_id == pair.server_host.peer_id
        index: Any
        for index in (..., 3, slice(10, 20), (slice(None), 5), (slice(None, None, 100), ..., -1)):
            part = await ref.read(index)
            np.testing.assert_array_equal(part, CACHE[index])
            assert part.flags.writeable
        assert await ref.read((3, 4)) == CACHE[3, 4]
        out = np.empty((100, 400), np.float32)
        assert await ref.read(slice(100, 200), out=out) is out
        np.testing.assert_array_equal(out, CACHE[100:200])
        with pytest.raises(OutOfRangeError):
            await ref.read(500)
        with pytest.raises(TypeError, match="another form"):
            await ref.read(slice(3), out=out)
        with pytest.raises(LocalProtocolError, match=r"`lattica\.rpc\.read\(ref, …\)`"):
            _ = await trio.to_thread.run_sync(ref.read)
        again = await pair.client.call(pair.server_host.peer_id, "Owner.from_a_thread")
        np.testing.assert_array_equal(await again["cache"].read(0), CACHE[0])


@pytest.mark.parametrize("value", [b"hello" * 1000, bytearray(70_000), memoryview(b"abc"), b""])
async def test_bytes_are_lent_too(value: Any, autojump_clock) -> None:
    async with rpc_pair() as pair:
        ref = pair.client.share(value, to=pair.server_host.peer_id)
        assert bytes(await ref.read()) == bytes(value)  # its owner can read it, too
        assert await pair.stub.echo(ref) == ref  # the same lease, when it comes back
        theirs = pair.server.share(value, to=pair.client_host.peer_id)
        pair.client.serve(Reader())
        stub = pair.server.stub(pair.client_host.peer_id, Reader)
        assert await stub.whole(theirs) == bytes(value)
        assert await stub.middle(theirs) == bytes(value)[1:3]


class Reader:
    async def whole(self, ref: BufferRef) -> bytes:
        return bytes(await ref.read())

    async def middle(self, ref: BufferRef) -> bytes:
        return bytes(await ref.read(slice(1, 3)))


async def test_only_the_peer_that_it_was_given_to_can_read(autojump_clock) -> None:
    async with rpc_pair() as pair:
        owner, stub = owner_of(pair)
        ref = await stub.cache()  # type: ignore[call-arg]
        third_host = pair.net.host()
        async with open_rpc(third_host) as third:
            third.serve(Owner())
            at_third = pair.client.stub(third_host.peer_id, Owner)
            with pytest.raises(NotFoundError, match="no such lease"):
                await at_third.use(ref)
            given = await ref.give(third_host.peer_id)
            assert await at_third.use(given) == CACHE[:2].sum()
            with pytest.raises(NotFoundError):
                await given.read()
            await ref.release()
            await ref.release()
            with pytest.raises(NotFoundError):
                await ref.read()
            with pytest.raises(NotFoundError):
                await ref.give(third_host.peer_id)
            assert await owner.refs[0].wait_ended() is LeaseEnd.RELEASED
            # The other has an end of its own.
            assert pair.server.statistics().leases.lent == 1
            await trio.sleep(25)
            ended = pair.server.statistics().leases.ended
            assert (ended["released"], ended["expired"]) == (1, 1)


async def test_heartbeats_keep_it_for_as_long_as_the_reader_has_it(autojump_clock) -> None:
    async with rpc_pair() as pair:
        owner, stub = owner_of(pair)
        ref = await stub.cache(ttl=2.0)  # type: ignore[call-arg]
        await trio.sleep(100)
        np.testing.assert_array_equal(await ref.read(7), CACHE[7])
        assert owner.refs[0].end is None
        copy = await stub.cache(ttl=2.0)  # type: ignore[call-arg]
        gc.disable()
        try:
            del ref
            start = trio.current_time()
            assert await owner.refs[0].wait_ended() is LeaseEnd.EXPIRED
            assert trio.current_time() - start <= 4.0
        finally:
            gc.enable()
        assert pair.client.statistics().leases.kept == 1
        assert pair.server.statistics().leases.bytes_lent == CACHE.nbytes
        async with copy:
            pass
        assert owner.refs[1].end is LeaseEnd.RELEASED
        assert pair.server.statistics().leases.bytes_lent == 0


async def test_what_was_dropped_may_be_sent_again_in_its_time(autojump_clock) -> None:
    async with rpc_pair() as pair:
        owner, _ = owner_of(pair)
        pair.client.serve(Owner())
        at_client = pair.server.stub(pair.client_host.peer_id, Owner)
        ref = pair.server.share(CACHE, to=pair.client_host.peer_id, ttl=60.0)
        for _ in range(3):
            assert await at_client.use(ref) == CACHE[:2].sum()
            await trio.sleep(50)
        start = trio.current_time()
        assert await ref.wait_ended() is LeaseEnd.EXPIRED
        assert trio.current_time() - start < 12.0
        assert not owner.refs


async def test_what_never_arrived_expires(autojump_clock) -> None:
    async with rpc_pair() as pair:
        await pair.stub.shout("connect")
        ref = pair.server.share(CACHE, to=pair.client_host.peer_id, ttl=5.0)
        start = trio.current_time()
        assert await ref.wait_ended() is LeaseEnd.EXPIRED
        assert 5.0 <= trio.current_time() - start <= 6.0
        with pytest.raises(NotFoundError, match="expired"):
            await ref.read()
        assert pair.server.statistics().leases.bytes_lent == 0


@pytest.mark.parametrize("is_silent", [True, False])
async def test_a_dead_reader_is_noticed_in_time(is_silent: bool, autojump_clock) -> None:
    """Its connection is lost, or is there and nothing comes."""
    async with rpc_pair() as pair:
        owner, stub = owner_of(pair)
        ref = await stub.cache(ttl=600.0)  # type: ignore[call-arg]
        await trio.sleep(20)
        if is_silent:
            pair.client._lending._keeping.forget(ref.owner_id, ref.id)
        else:
            pair.client_host.is_reachable = pair.server_host.is_reachable = False
            pair.lose()
        start = trio.current_time()
        assert await owner.refs[0].wait_ended() is LeaseEnd.PEER_LOST
        assert trio.current_time() - start <= DEATH
        if not is_silent:
            with pytest.raises(UnavailableError):
                await ref.read(timeout=5)


async def test_its_owner_can_withdraw_it_and_ends_it_with_its_own_end(autojump_clock) -> None:
    async with rpc_pair() as pair:
        owner, stub = owner_of(pair)
        first, second = await stub.cache(), await stub.cache()  # type: ignore[call-arg]
        owner.refs[0].withdraw()
        owner.refs[0].withdraw()
        assert owner.refs[0].end is LeaseEnd.WITHDRAWN
        with pytest.raises(NotFoundError):
            await first.read()
        with pytest.raises(LocalProtocolError, match="only its owner"):
            second.withdraw()
        ends: list[LeaseEnd] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_of, owner.refs[1], ends)
            await trio.sleep(0.1)
            await pair.server.aclose()
        assert ends == [LeaseEnd.WITHDRAWN]


async def _end_of(ref: BufferRef, ends: list[LeaseEnd]) -> None:
    ends.append(await ref.wait_ended())


async def test_damage_is_noticed(autojump_clock, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = iter(range(10))

    async def wrong(part: object) -> int:
        await trio.lowlevel.checkpoint()
        return next(sums)

    async with rpc_pair() as pair:
        _, stub = owner_of(pair)
        ref = await stub.cache()  # type: ignore[call-arg]
        monkeypatch.setattr(lending, "_checksum", wrong)
        with pytest.raises(DataLossError, match="checksum"):
            await ref.read()


async def test_a_budget_bounds_what_is_lent(autojump_clock) -> None:
    async with rpc_pair(RpcConfig(lease_memory=CACHE.nbytes)) as pair:
        peer = pair.client_host.peer_id
        first = pair.server.share(CACHE, to=peer)
        with pytest.raises(ResourceExhaustedError, match=r"rpc\.lease_memory"):
            pair.server.share(b"1", to=peer)
        first.withdraw()
        pair.server.share(b"1", to=peer)


async def test_what_cannot_be_lent(autojump_clock) -> None:
    async with rpc_pair() as pair:
        peer = pair.client_host.peer_id
        wrong: Any
        for wrong in (1, "text", [1, 2], np.array([object()]), None):
            with pytest.raises(TypeError):
                pair.server.share(wrong, to=peer)
        for ttl in (0.0, -1.0, 1e9, float("nan")):
            with pytest.raises(LocalProtocolError, match="ttl"):
                pair.server.share(b"1", to=peer, ttl=ttl)
        with pytest.raises(AddressError):
            pair.server.share(b"1", to="nobody")
        with pytest.raises(LocalProtocolError, match="over the network"):
            CallContext(peer, "A.b").share(b"1")


async def test_a_strangers_reference_makes_nobody_connect_anywhere(autojump_clock) -> None:
    async with rpc_pair() as pair:
        third_host = pair.net.host()
        async with open_rpc(third_host) as third:
            real = third.share(b"12345", to=pair.server_host.peer_id, ttl=1.0)
            await pair.stub.echo([real] * 100)
            await trio.sleep(30)
            assert not third_host.connections
            assert real.end is LeaseEnd.EXPIRED


@pytest.mark.parametrize(
    "change",
    [
        {"id": bytes(15)},
        {"ttl": 0.0},
        {"ttl": "1"},
        {"size": -1},
        {"owner": "nobody"},
        {"shape": 5},
    ],
)
async def test_references_that_are_none_are_refused(change: dict[str, Any], autojump_clock) -> None:
    async with rpc_pair() as pair:
        owner, stub = owner_of(pair)
        ref = pair.client.share(b"12345", to=pair.server_host.peer_id)
        for name, value in change.items():
            object.__setattr__(ref, name, value)
        with pytest.raises(InvalidArgumentError):
            await stub.use(ref)
        assert not owner.refs


async def test_the_service_takes_lists_of_leases_only(autojump_clock) -> None:
    async with rpc_pair() as pair:
        _, stub = owner_of(pair)
        await stub.cache()  # type: ignore[call-arg]
        peer = pair.server_host.peer_id
        for method in ("renew", "release"):
            for wrong in ([bytes(15)], [bytes(16)] * 2000, b"", [1]):
                with pytest.raises(InvalidArgumentError):
                    await pair.client.call(peer, f"lattica.Leases.{method}", wrong)
        assert await pair.client.call(peer, "lattica.Leases.renew", [bytes(16)]) == [False]
        with pytest.raises(NotFoundError):
            await pair.client.call(peer, "lattica.Leases.read", bytes(16), [0])
        stranger = str(Identity.generate().peer_id)
        with pytest.raises(NotFoundError):
            await pair.client.call(peer, "lattica.Leases.give", bytes(16), stranger)
