"""Peers that send garbage, stall or vanish, at every stage: what it costs, and whom.

The victim is a whole node, with an honest peer that keeps talking to it. An attack costs at
most its own connection, with one line in the log that says why, and leaves nothing behind.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import random
import re
import socket
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.peer_log import BURST
from lattica.nat.config import Timeouts
from lattica.nat.mux.session import INITIAL_WINDOW
from lattica.nat.mux.stream import Stream
from lattica.nat.mux.yamux.frames import Flag, FrameType, pack_header
from lattica.nat.secure.noise import frame as noise_frame
from lattica.nat.services.identify.messages import IDENTIFY, IDENTIFY_PUSH
from lattica.node import Node
from tests.support.attacker import (
    MULTISTREAM,
    NOISE,
    Attacker,
    Forger,
    attacking,
    data,
    frame,
    propose,
    syn,
)
from tests.support.nets.nets import (
    ECHO,
    advance,
    ask_echo,
    echo,
    node_config,
    open_files,
    settled,
    tasks,
)

DATA, WINDOW_UPDATE, PING, GO_AWAY = FrameType
SYN, ACK, FIN, RST = Flag
SOURCE = "/test/source/1"
Attack = Callable[[Attacker], Awaitable[None]]

PATIENT = Timeouts(keep_alive_timeout=1000, keep_alive_interval=999)
"""For attackers that answer no pings, and need as long as the machine is busy."""


@dataclass
class Scene:
    """A victim, an honest peer that talks to it all the time, and the log."""

    victim: Node
    honest: Node
    caplog: pytest.LogCaptureFixture
    lasting: Stream
    _baseline: tuple[int, int] = field(default=(0, 0))

    async def talk(self) -> None:
        """All the while; where the clock stands still, whenever it moves."""
        async with await self.honest.open_stream(self.victim.peer_id, ECHO) as stream:
            while True:
                words = os.urandom(random.choice((1, 100, 10_000)))
                await stream.send_all(words)
                assert await stream.receive_exactly(len(words)) == words
                await trio.sleep(0.02)

    def lines(self) -> list[str]:
        """What was logged at INFO or above since the last :meth:`begin`."""
        lines = [r.getMessage() for r in self.caplog.records if r.levelno >= logging.INFO]
        return [line for line in lines if not line.startswith("listening addr=")]

    async def begin(self) -> None:
        self.caplog.clear()
        await self.victim.wait_connected(self.honest.peer_id)
        self._baseline = (tasks(), open_files())

    async def recovered(self, *, other_files: int = 0) -> None:
        """Wait until nothing is left of the attack; the honest peer still gets on."""
        swarm, (tasks_before, files_before) = self.victim.swarm, self._baseline
        await settled(lambda: set(swarm.registry.by_peer) == {self.honest.peer_id})
        await settled(lambda: not swarm.listeners.pending and not swarm.inbound_streams.negotiating)
        await settled(lambda: tasks() == tasks_before)
        await settled(lambda: open_files() == files_before + other_files)
        await self.lasting.send_all(b"still here")
        assert await self.lasting.receive_exactly(10) == b"still here"
        assert await ask_echo(self.honest, self.victim.peer_id) == b"hello"


@asynccontextmanager
async def scene(caplog: pytest.LogCaptureFixture, **changes: Any) -> AsyncIterator[Scene]:
    """`changes` are fields of the victim's configuration."""
    caplog.set_level(logging.INFO, "lattica")
    async with Node(node_config(**changes)) as victim, Node(node_config()) as honest:
        victim.handle(ECHO, echo)
        victim.handle(SOURCE, source)
        await honest.connect(victim.addrs[0])
        await settled(lambda: all(n.peers() and n.peers()[0].agent for n in (victim, honest)))
        stage = Scene(victim, honest, caplog, await honest.open_stream(victim.peer_id, ECHO))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.talk)
            await wait_all_tasks_blocked()
            yield stage
            nursery.cancel_scope.cancel()


# --- before there is a connection ---


async def http(a: Attacker) -> None:
    await a.send(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n" * 3)


async def noise_bytes(a: Attacker) -> None:
    await a.send(b"\xff" * 100)


async def random_bytes(a: Attacker) -> None:
    await a.send(b"\x7f" + random.Random(1).randbytes(100_000))


async def huge_message(a: Attacker) -> None:
    await a.send(MULTISTREAM + b"\xff\xff\xff\xff\x0f" + bytes(1000))


async def endless_proposals(a: Attacker) -> None:
    await a.send(MULTISTREAM + b"\x09/unknown\n" * 1000)


async def plaintext_only(a: Attacker) -> None:
    await a.send(MULTISTREAM + b"\x11/plaintext/2.0.0\n")
    await trio.sleep(0)
    a.sock.shutdown(1)


async def short_noise_message(a: Attacker) -> None:
    await a.send(MULTISTREAM + NOISE + noise_frame(b"short"))


async def oversized_noise_message(a: Attacker) -> None:
    await a.send(MULTISTREAM + NOISE + b"\xff\xff" + bytes(65535))


async def weak_noise_key(a: Attacker) -> None:
    """The point of order one, with which the secret would be known to everybody."""
    await a.send(MULTISTREAM + NOISE + noise_frame(bytes(32)))


async def garbage_in_the_handshake(a: Attacker) -> None:
    calls = 0

    def change(out: bytes) -> bytes:
        nonlocal calls
        calls += 1
        return out if calls == 1 else b"\x00\x64" + bytes(100)

    await a.set_up(change)


async def forged_signature(a: Attacker) -> None:
    a.identity = Forger(Identity.generate())
    await a.set_up()


async def no_muxer(a: Attacker) -> None:
    calls = 0

    def change(out: bytes) -> bytes:
        nonlocal calls
        calls += 1
        return out if calls == 1 else out[: -len(propose("/yamux/1.0.0")) - 18]

    await a.set_up(change, sends=2)
    a.sock.shutdown(1)


BEFORE = [
    (http, r"multistream"),
    (noise_bytes, r"does not speak libp2p"),
    (random_bytes, r"multistream"),
    (huge_message, r"multistream message of \d+ bytes"),
    (endless_proposals, r"more than 64 proposals"),
    (plaintext_only, r"closed during the negotiation of security"),
    (short_noise_message, r"noise"),
    (oversized_noise_message, r"noise"),
    (weak_noise_key, r"noise"),
    (garbage_in_the_handshake, r"noise"),
    (forged_signature, r"signature"),
    (no_muxer, r"closed during the negotiation of the multiplexer"),
]


async def attacked(stage: Scene, attack: Attack, reason: str, *, silent: bool = False) -> None:
    """Run an attack that costs its connection, and check what it left."""
    await stage.begin()
    async with attacking(stage.victim.swarm.addrs[0]) as attacker:
        await attack(attacker)
        await attacker.closed()
        await stage.recovered(other_files=attacker.sock.fileno() != -1)
    if silent:
        assert stage.lines() == []
        return
    (line,) = stage.lines()
    assert re.search(reason, line, re.IGNORECASE), line
    assert attacker.addr in line
    assert "Traceback" not in stage.caplog.text


@pytest.mark.parametrize(("attack", "reason"), BEFORE, ids=[a.__name__ for a, _ in BEFORE])
async def test_before_there_is_a_connection(caplog, attack, reason):
    async with scene(caplog) as stage:
        await attacked(stage, attack, f"inbound connection failed: .*{reason}")


@pytest.mark.parametrize(
    ("stages", "part"), [(0, 0), (1, 0.2), (1, 0.7), (2, 0), (2, 0.3), (2, 0.7)]
)
async def test_silence_at_any_stage_of_the_set_up(mock_clock: MockClock, caplog, stages, part):
    """A minute of it; everybody else gets in meanwhile."""
    async with scene(caplog) as stage:
        await stage.begin()
        async with attacking(stage.victim.swarm.addrs[0]) as attacker:
            sent = 0

            def change(out: bytes) -> bytes:
                nonlocal sent
                sent += 1
                if sent < stages:
                    return out
                return out[: int(len(out) * part)] if sent == stages else b""

            async with trio.open_nursery() as nursery:
                if stages:
                    nursery.start_soon(attacker.set_up, change)
                await wait_all_tasks_blocked(0.01)
                assert len(stage.victim.swarm.listeners.pending) == 1
                async with Node(node_config()) as newcomer:
                    await newcomer.connect(stage.victim.addrs[0])
                    assert await ask_echo(newcomer, stage.victim.peer_id) == b"hello"
                assert stage.lines() == []
                await advance(mock_clock, 11)
                nursery.cancel_scope.cancel()
            await attacker.closed()
            await stage.recovered(other_files=1)
        (line,) = stage.lines()
        assert "handshake took too long" in line
        assert attacker.addr in line


async def test_a_slow_drip_does_not_stretch_the_set_up(mock_clock: MockClock, caplog):
    async with scene(caplog) as stage:
        await stage.begin()
        async with attacking(stage.victim.swarm.addrs[0]) as attacker:
            for byte in (MULTISTREAM + NOISE)[:22]:
                await attacker.send(bytes([byte]))
                await advance(mock_clock, 0.5)
            await attacker.closed()
            await stage.recovered(other_files=1)
        (line,) = stage.lines()
        assert "handshake took too long" in line


async def test_a_thousand_half_open_handshakes_and_honest_peers_between_them(mock_clock, caplog):
    """On a clock that stands still, so that none of them takes too long."""
    async with scene(caplog) as stage, AsyncExitStack() as stack:
        await stage.begin()
        addr = stage.victim.swarm.addrs[0]
        attackers = []
        for number in range(1000):
            attacker = await stack.enter_async_context(attacking(addr))
            await attacker.send((MULTISTREAM + NOISE + noise_frame(os.urandom(32)))[: number % 40])
            attackers.append(attacker)
        await settled(lambda: len(stage.victim.swarm.listeners.pending) == 1000)
        for _ in range(3):
            async with Node(node_config()) as newcomer:
                await newcomer.connect(stage.victim.addrs[0])
                assert await ask_echo(newcomer, stage.victim.peer_id) == b"hello"
        assert stage.lines() == []
        for attacker in attackers:
            attacker.reset()
        await stage.recovered()
        # A few of the thousand, which all come from one network.
        assert len(stage.lines()) == BURST


@pytest.mark.parametrize("stages", range(5))
async def test_a_reset_at_any_stage_of_the_set_up(caplog, stages):
    async with scene(caplog) as stage:
        for part in (0.0, 0.5, 1.0):
            await stage.begin()
            async with attacking(stage.victim.swarm.addrs[0]) as attacker:
                sent = 0

                def change(out: bytes, attacker: Attacker = attacker, part: float = part) -> bytes:
                    nonlocal sent
                    sent += 1
                    return out[: int(len(out) * part)] if sent == stages else out

                async with trio.open_nursery() as nursery:
                    if stages:
                        nursery.start_soon(attacker.set_up, change)
                    await wait_all_tasks_blocked(0.005)
                    nursery.cancel_scope.cancel()
                attacker.reset()
            await stage.recovered()
            assert len(stage.lines()) <= 1
            assert all("inbound connection failed" in line for line in stage.lines())


# --- on a connection ---


def yamux(*frames: bytes) -> Attack:
    async def attack(attacker: Attacker) -> None:
        await attacker.set_up()
        await attacker.send_frames(*frames)

    return attack


async def bad_ciphertext(a: Attacker) -> None:
    await a.set_up()
    await a.send(noise_frame(bytes(100)))


async def flipped_bit(a: Attacker) -> None:
    await a.set_up()
    sealed = bytearray(a.seal(frame(PING, SYN, 0, 1)))
    sealed[-1] ^= 1
    await a.send(bytes(sealed))


async def message_too_short_for_its_tag(a: Attacker) -> None:
    await a.set_up()
    await a.send(noise_frame(bytes(15)))


async def replayed_message(a: Attacker) -> None:
    await a.set_up()
    await a.send(a.seal(frame(PING, SYN, 0, 1)) * 2)


async def garbage_with_the_last_of_the_set_up(a: Attacker) -> None:
    """The victim decrypts it together with the agreement on the multiplexer."""
    calls = 0

    def change(out: bytes) -> bytes:
        nonlocal calls
        calls += 1
        return out if calls == 1 else out + a.seal(b"\x01" + bytes(11))

    await a.set_up(change)


async def pings_unread(a: Attacker) -> None:
    """Every ping is answered; who does not read the answers must not fill our memory."""
    await a.set_up()
    pings = b"".join(frame(PING, SYN, 0, number) for number in range(5000))
    with suppress(OSError):
        while True:
            await a.conn.send(a.seal(pings))


async def garbage_while_it_cannot_be_answered(a: Attacker) -> None:
    """The victim sends, the socket is full, and the goodbye cannot leave."""
    await a.set_up()
    await a.send_frames(syn(1, propose(SOURCE)), frame(WINDOW_UPDATE, 0, 1, 1 << 30))
    waiting, same = 0, 0
    while same < 20 or not waiting:
        await wait_all_tasks_blocked(0.003)
        before, waiting = waiting, unread(a.sock)
        same = same + 1 if waiting == before else 0
    await a.send_frames(frame(9, 0, 0, 0))


def unread(sock: socket.socket) -> int:
    """Bytes that the kernel holds for us."""
    size = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, size)
    return size[0]


async def source(stream: Stream) -> None:
    """A handler that has much to say."""
    await stream.send_all(bytes(100_000_000))


ON_A_CONNECTION = [
    (bad_ciphertext, "noise"),
    (flipped_bit, "noise"),
    (message_too_short_for_its_tag, "noise"),
    (replayed_message, "noise"),
    (garbage_with_the_last_of_the_set_up, "version 1"),
    (pings_unread, "provokes replies"),
    (garbage_while_it_cannot_be_answered, "frame type 9"),
    (yamux(b"\x01" + bytes(11)), "version 1"),
    (yamux(frame(9, 0, 0, 0)), "frame type 9"),
    (yamux(random.Random(2).randbytes(5000)), "yamux"),
    (yamux(data(1, b"never opened")), "nobody opened stream 1"),
    (yamux(data(2, b"not ours to open", SYN)), "cannot open stream 2"),
    (yamux(data(0, b"none", SYN)), "cannot open stream 0"),
    (yamux(syn(1), syn(1)), "cannot open stream 1"),
    (yamux(frame(DATA, SYN, 1, INITIAL_WINDOW + 1)), "overruns its window"),
    (yamux(frame(DATA, SYN, 1, 0xFFFFFFFF)), "overruns its window"),
    (yamux(syn(1, propose(ECHO)), *[data(1, bytes(65000))] * 40), "overruns its window"),
    (yamux(syn(1), data(1, b"", FIN), data(1, b"more")), "after FIN"),
    (yamux(syn(1), *[frame(WINDOW_UPDATE, 0, 1, 0xFFFFFFFF)] * 3), "impossible window"),
]
NAMES = [
    *(attack.__name__ for attack, _ in ON_A_CONNECTION[:7]),
    *(f"yamux: {reason}" for _, reason in ON_A_CONNECTION[7:]),
]


@pytest.mark.parametrize(("attack", "reason"), ON_A_CONNECTION, ids=NAMES)
async def test_garbage_on_a_connection(caplog, attack, reason):
    async with scene(caplog, timeouts=PATIENT) as stage:
        await attacked(stage, attack, f"closing connection: .*{reason}")


async def goes_away(a: Attacker) -> None:
    await a.set_up()
    await a.send_frames(frame(GO_AWAY, 0, 0, 0))
    a.sock.shutdown(1)


async def leaves_in_the_middle_of_a_frame(a: Attacker) -> None:
    await a.set_up()
    sealed = a.seal(syn(1, propose(ECHO)) + frame(DATA, 0, 1, 1000) + bytes(500))
    await a.send(sealed + b"\x30\x00half a message")
    await wait_all_tasks_blocked(0.005)
    a.reset()


async def ends_in_the_middle_of_a_frame(a: Attacker) -> None:
    await a.set_up()
    await a.send_frames(syn(1, propose(ECHO)), pack_header(0, DATA, 0, 1, 1000)[:7])
    a.sock.shutdown(1)


@pytest.mark.parametrize(
    "attack", [goes_away, leaves_in_the_middle_of_a_frame, ends_in_the_middle_of_a_frame]
)
async def test_those_who_just_leave_are_no_news(caplog, attack):
    async with scene(caplog) as stage:
        await attacked(stage, attack, "", silent=True)


@pytest.mark.parametrize("cut", ["noise", "yamux header", "yamux data", "silent"])
async def test_a_connection_that_stalls(mock_clock: MockClock, caplog, cut):
    async with scene(caplog) as stage:
        await stage.begin()
        async with attacking(stage.victim.swarm.addrs[0]) as attacker:
            await attacker.set_up()
            if cut == "noise":
                await attacker.send(attacker.seal(syn(1, propose(ECHO)))[:-3])
            elif cut == "yamux header":
                await attacker.send_frames(syn(1, propose(ECHO)), pack_header(0, DATA, 0, 1, 9)[:5])
            elif cut == "yamux data":
                await attacker.send_frames(syn(1, propose(ECHO)), frame(DATA, 0, 1, 1000, b"some"))
            await settled(lambda: attacker.identity.peer_id in stage.victim.swarm.registry.by_peer)
            await advance(mock_clock, 14)
            await stage.recovered(other_files=1)
        (line,) = stage.lines()
        assert "has not answered" in line
        assert str(attacker.identity.peer_id) in line


async def test_a_storm_of_streams_that_are_reset_at_once(caplog):
    """What was called Rapid Reset with HTTP/2 (CVE-2023-44487)."""
    async with scene(caplog, timeouts=PATIENT) as stage:
        await stage.begin()
        async with attacking(stage.victim.swarm.addrs[0]) as attacker:
            await attacker.set_up()
            for batch in range(20):
                ids = range(1 + batch * 1000, 1 + (batch + 1) * 1000, 2)
                await attacker.send_frames(
                    *(syn(i, propose(ECHO)) + frame(WINDOW_UPDATE, RST, i, 0) for i in ids)
                )
            await attacker.send_frames(syn(100_001, propose(ECHO) + b"well?"))
            while b"well?" not in attacker.plain:
                assert await attacker.receive()
            await settled(lambda: not stage.victim.swarm.inbound_streams.negotiating)
            (connection,) = stage.victim.swarm.registry.by_peer[attacker.identity.peer_id]
            # What is left are that stream, and the one on which we asked who it is.
            assert connection.stream_count <= 2
        await stage.recovered()
        assert stage.lines() == []


async def test_a_flood_of_streams_is_refused_beyond_the_budget(caplog):
    async with scene(caplog, timeouts=PATIENT) as stage:
        await stage.begin()
        async with attacking(stage.victim.swarm.addrs[0]) as attacker:
            await attacker.set_up()
            await attacker.send_frames(*(syn(i) for i in range(1, 10_001, 2)))
            resets = 0
            while resets < 5000 - 1024:
                assert await attacker.receive()
                resets = attacker.plain.count(pack_header(0, WINDOW_UPDATE, RST, 0, 0)[:4])
            (connection,) = stage.victim.swarm.registry.by_peer[attacker.identity.peer_id]
            assert connection.stream_count <= 1024
        await stage.recovered()


# --- on a stream ---


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (b"\xff" * 50, "multistream"),
        (b"\x05garbage", "multistream"),
        (propose(IDENTIFY_PUSH) + b"\xff\xff\xff\xff\x0f", "bytes"),
        (propose(IDENTIFY_PUSH) + b"\x05\xff\xff\xff\xff\xff", "not valid protobuf"),
        (propose(IDENTIFY_PUSH) + b"\x08\x22\x7f", "ended inside|ended"),
    ],
    ids=["noise", "text", "huge push", "damaged push", "short push"],
)
async def test_garbage_on_a_stream_costs_the_stream(caplog, words, reason):
    async with scene(caplog, timeouts=PATIENT) as stage:
        await stage.begin()
        async with attacking(stage.victim.swarm.addrs[0]) as attacker:
            await attacker.set_up()
            end = data(1, b"", FIN) if "ended" in reason else b""
            await attacker.send_frames(syn(1, words) + end, syn(3, propose(ECHO) + b"well?"))
            while b"well?" not in attacker.plain:
                assert await attacker.receive()
            await settled(lambda: stage.lines())
            (line,) = stage.lines()
            assert line.startswith("stream reset: peer breaks")
            assert re.search(reason, line)
            assert str(attacker.identity.peer_id) in line
        await stage.recovered()


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff\xff\xff\xff\x0f",
        b"\x05\xff\xff\xff\xff\xff",
        b"\x04\x12\x02\xff\xff",
        b"\x04\x22\x02\xff\xff",
        b"\x06\x0a\x04\xff\xff\xff\xff",
        b"\x06\x42\x04\xff\xff\xff\xff",
        b"",
    ],
    ids=["huge", "damaged", "address", "observed", "key", "record", "nothing"],
)
async def test_garbage_in_answer_to_who_are_you(caplog, answer):
    """We ask each peer by ourselves; what it says must not matter more than it can help."""
    caplog.set_level(logging.DEBUG, "libp2p")
    async with scene(caplog, timeouts=PATIENT) as stage:
        await stage.begin()
        async with attacking(stage.victim.swarm.addrs[0]) as attacker:
            await attacker.set_up()
            question = propose(IDENTIFY)
            while question not in attacker.plain:
                assert await attacker.receive()
            await attacker.send_frames(
                data(2, question + answer, FIN), syn(1, propose(ECHO) + b"well?")
            )
            while b"well?" not in attacker.plain:
                assert await attacker.receive()
        await stage.recovered()
        assert stage.lines() == []


async def test_handlers_that_wait_for_a_stalled_stream_end_with_it(mock_clock, caplog):
    """A stream may be silent for as long as its handler likes; but not before it has one."""
    async with scene(caplog) as stage:
        await stage.begin()
        async with attacking(stage.victim.swarm.addrs[0]) as attacker:
            await attacker.set_up()
            await attacker.send_frames(syn(1, MULTISTREAM[:5]))
            await settled(lambda: stage.victim.swarm.inbound_streams.negotiating)
            for _ in range(3):
                await advance(mock_clock, 3.7)
                await attacker.send_frames(frame(WINDOW_UPDATE, 0, 1, 0))  # it is alive
            await settled(lambda: not stage.victim.swarm.inbound_streams.negotiating)
            (line,) = stage.lines()
            assert "no protocol named in time" in line
        await stage.recovered()
