"""multistream-select: the split of the bytes never matters, and garbage only ever costs itself."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p.custom_types import TProtocol
from libp2p.io.abc import ReadWriteCloser
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from lattica.errors import RemoteProtocolError
from lattica.nat.secure.multistream import PROTOCOL_ID, Initiator, Responder, encode_message

names = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=60).map(
    lambda text: "/" + text
)
name_lists = st.lists(names, min_size=1, max_size=6, unique=True)
cut_lists = st.lists(st.integers(0, 1000), max_size=10)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def respond(known: list[str], pieces: list[bytes]) -> tuple[str | None, bytes, bytes, bool]:
    """Selected protocol, answer, what is left over, and whether the peer behaved."""
    machine = Responder(known.__contains__, lambda: known, pipelined=True)
    rest = b""
    for piece in pieces:
        if machine.selected is not None:
            rest += piece
            continue
        try:
            machine.receive(piece)
        except RemoteProtocolError:
            return None, machine.data_to_send(), b"", False
        rest += machine.rest
    return machine.selected, machine.data_to_send(), rest, True


@given(name_lists, name_lists, st.binary(max_size=50), cut_lists)
def test_any_split_gives_the_same_answer(
    known: list[str], asked: list[str], data: bytes, cuts: list[int]
) -> None:
    stream = encode_message(PROTOCOL_ID) + b"".join(map(encode_message, asked)) + data
    assert respond(known, split(stream, cuts)) == respond(known, [stream])


@given(name_lists, name_lists, st.binary(max_size=50))
def test_what_came_with_a_refused_proposal_is_never_taken_for_another(
    known: list[str], asked: list[str], data: bytes
) -> None:
    stream = encode_message(PROTOCOL_ID) + b"".join(map(encode_message, asked)) + data
    machine = Responder(known.__contains__, lambda: known)
    try:
        machine.receive(stream)
    except RemoteProtocolError:
        assert not asked
    if asked and asked[0] not in known:
        assert machine.selected is None
        assert machine.failed == (len(asked) > 1 or bool(data))


@given(name_lists, st.binary(max_size=300), cut_lists, st.booleans())
def test_garbage_is_the_peers_fault(
    known: list[str], data: bytes, cuts: list[int], header: bool
) -> None:
    stream = encode_message(PROTOCOL_ID) * header + data
    assert respond(known, split(stream, cuts)) == respond(known, [stream])
    initiator = Initiator(known)
    try:
        for piece in split(stream, cuts):
            initiator.receive(piece)
            if initiator.selected is not None or initiator.failed:
                break
    except RemoteProtocolError:
        pass


@given(name_lists, name_lists, cut_lists)
def test_two_machines_agree(known: list[str], asked: list[str], cuts: list[int]) -> None:
    responder = Responder(known.__contains__, lambda: known)
    initiator = Initiator(asked)
    for _ in range(len(asked) + 1):
        for piece in split(initiator.data_to_send(), cuts):
            if piece:
                responder.receive(piece)
        for piece in split(responder.data_to_send(), cuts):
            if piece:
                initiator.receive(piece)
        if initiator.selected is not None or initiator.failed:
            break
    expected = next((name for name in asked if name in known), None)
    assert initiator.selected == responder.selected == expected
    assert initiator.failed == (expected is None)


class Pipe(ReadWriteCloser):
    """One end of an in-memory connection, as py-libp2p wants it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


@pytest.mark.parametrize("asked", [["/b"], ["/none", "/b"], ["/none"]])
async def test_py_libp2p_answers_our_initiator(asked: list[str]) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    initiator = Initiator(asked)
    async with trio.open_nursery() as nursery:
        muxer = Multiselect({TProtocol("/a"): None, TProtocol("/b"): None})
        nursery.start_soon(muxer.negotiate, MultiselectCommunicator(Pipe(theirs)))
        while initiator.selected is None and not initiator.failed:
            if data := initiator.data_to_send():
                await ours.send_all(data)
            initiator.receive(await ours.receive_some())
        nursery.cancel_scope.cancel()
    assert initiator.selected == ("/b" if "/b" in asked else None)


async def test_our_responder_answers_py_libp2p() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    responder = Responder(["/a", "/b"].__contains__, lambda: ["/a", "/b"])
    got: list[str] = []

    async def ask() -> None:
        communicator = MultiselectCommunicator(Pipe(theirs))
        asked = [TProtocol("/none"), TProtocol("/b")]
        got.append(await MultiselectClient().select_one_of(asked, communicator))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while responder.selected is None:
            responder.receive(await ours.receive_some())
            await ours.send_all(responder.data_to_send())
    assert got == ["/b"]
