"""Codecs of content under hypothesis: round trips, any split, and garbage."""

from __future__ import annotations

import contextlib
import itertools
import string

from hypothesis import given
from hypothesis import strategies as st

from lattica.content.download.ledger import Ledger
from lattica.content.download.plan import Plan
from lattica.content.manifest.chunking import (
    SHARED_CHUNK_BYTES,
    SMALL_TENSOR_BYTES,
    cut_plain,
    cut_tensors,
)
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import decode_manifest, encode_manifest
from lattica.content.manifest.manifest import MAX_CHUNK_BYTES, ChunkTable, FileEntry, Manifest
from lattica.content.manifest.paths import check_path
from lattica.content.manifest.tensor_files.safetensors_header import (
    DTYPE_BITS,
    build_header,
    layout_from_shapes,
    parse_header,
    tensor_bytes,
)
from lattica.content.protocol import (
    MAX_SPAN_BYTES,
    Body,
    ContentClientCore,
    ContentServerCore,
    Refusal,
    Refused,
    encode_body_header,
    encode_refusal,
)
from lattica.content.ticket import Ticket
from lattica.errors import ContentError, RemoteProtocolError, TicketError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr

PEER = Identity.generate().peer_id
names = st.text(string.ascii_lowercase + ".é", min_size=1, max_size=12)
whole_dtypes = st.sampled_from([d for d, bits in DTYPE_BITS.items() if bits % 8 == 0])
shapes = st.lists(st.tuples(whole_dtypes, st.lists(st.integers(0, 70), max_size=3)), max_size=8)


@st.composite
def layouts(draw):
    fields = [(f"t{i}", dtype, tuple(shape)) for i, (dtype, shape) in enumerate(draw(shapes))]
    metadata = list(draw(st.dictionaries(names, st.text(max_size=5), max_size=3)).items())
    start = draw(st.integers(8, 3 * MAX_CHUNK_BYTES))
    size = start + sum(tensor_bytes(dtype, shape) for _, dtype, shape in fields)
    with contextlib.suppress(ValueError):
        return layout_from_shapes(start, size, metadata, fields)
    return layout_from_shapes(start, size, [], fields)


@st.composite
def manifests(draw):
    files = []
    few = draw(st.integers(1, 4))  # few different digests, so that chunks repeat
    for number in range(draw(st.integers(0, 4))):
        layout = draw(st.none() | layouts())
        if layout is None:
            lengths = cut_plain(draw(st.integers(0, 3 * MAX_CHUNK_BYTES)))
        else:
            lengths = cut_tensors(layout)
        digests = b"".join(
            Cid.of(bytes((draw(st.integers(0, few)), length % 251))).digest for length in lengths
        )
        table = ChunkTable.from_chunks(lengths, digests)
        files.append(FileEntry(f"d/{number}", draw(st.booleans()), table, layout))
    return Manifest(draw(st.sampled_from(["m", "ä b"])), tuple(files))


@given(manifests())
def test_manifest_round_trip(manifest):
    data = encode_manifest(manifest)
    assert decode_manifest(data) == manifest
    assert encode_manifest(decode_manifest(data)) == data


@given(manifests(), st.data())
def test_manifest_with_changed_bytes_decodes_to_itself_or_is_refused(manifest, data):
    encoded = bytearray(encode_manifest(manifest))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        # One encoding only: what is accepted has exactly these bytes.
        assert encode_manifest(decode_manifest(bytes(encoded))) == encoded


@given(st.binary(max_size=300))
def test_garbage_manifests(data):
    with contextlib.suppress(RemoteProtocolError):
        decode_manifest(data)


@given(layouts())
def test_tensors_are_cut_at_their_boundaries(layout):
    lengths = cut_tensors(layout)
    size = layout.tensors[-1].offset + layout.tensors[-1].length if layout.tensors else None
    table = ChunkTable.from_chunks(lengths, b"")
    assert table.size == (size if size is not None else layout.data_start)
    assert all(0 < length <= MAX_CHUNK_BYTES for length in lengths)
    ends = {0, *table.ends}
    assert layout.data_start in ends
    for tensor in layout.tensors:
        if tensor.length >= SMALL_TENSOR_BYTES:
            assert tensor.offset in ends
            assert tensor.offset + tensor.length in ends
    for length in lengths[len(cut_plain(layout.data_start)) :]:
        assert length <= max(SHARED_CHUNK_BYTES, MAX_CHUNK_BYTES)


@given(layouts())
def test_header_round_trip(layout):
    prefix = build_header(layout.metadata, layout.tensors)
    size = len(prefix) + sum(t.length for t in layout.tensors)
    again = parse_header(prefix[8:], size)
    assert again.data_start == len(prefix)
    assert again.metadata == layout.metadata
    by_name = {t.name: (t.dtype, t.shape) for t in layout.tensors}
    assert {t.name: (t.dtype, t.shape) for t in again.tensors} == by_name


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: b'{"' + t.encode()))
def test_garbage_headers(data):
    with contextlib.suppress(ValueError):
        parse_header(data, len(data) + 8)


@given(manifests(), st.none() | st.sampled_from(["*", "t1", "t[02]", "t*3"]))
def test_plan_fills_every_output_exactly(manifest, pattern):
    cid = Cid.of(b"")
    try:
        plan = Plan(cid, manifest, pattern)
    except ContentError:
        return
    filled = [bytearray(output.size) for output in plan.outputs]
    for index, output in enumerate(plan.outputs):
        filled[index][: len(output.prefix)] = b"\1" * len(output.prefix)
    chunks = list(plan.chunks)
    assert chunks == sorted(chunks)
    digests = [manifest.chunk(number).digest for number in chunks]
    assert len(set(digests)) == len(digests)
    for number, digest in zip(chunks, digests, strict=True):
        assert plan.number_of(digest) == number
        for place in plan.placements(number):
            assert place.start + place.length <= MAX_CHUNK_BYTES
            piece = filled[place.output][place.offset : place.offset + place.length]
            assert piece == bytes(place.length)  # nothing is written twice
            filled[place.output][place.offset : place.offset + place.length] = b"\1" * place.length
    assert all(data == b"\1" * len(data) for data in filled)
    spanned: list[int] = []
    for span in plan.spans(chunks):
        numbers = range(span.first, span.first + span.count)
        spanned += numbers
        assert span.size == sum(manifest.chunk(n).length for n in numbers) <= MAX_SPAN_BYTES
    assert spanned == chunks
    ledger = Ledger(plan, frozenset())
    ledger.add(chunks, fetched=True)
    assert ledger.finished
    assert ledger.bytes_done == plan.size
    assert sorted(ledger.take_ready()) == list(range(len(plan.outputs)))


@given(
    st.lists(
        st.binary(min_size=1, max_size=5000)
        | st.builds(Refused, st.sampled_from(Refusal), st.text(max_size=20)),
        max_size=6,
    ),
    st.lists(st.integers(0, 20_000), max_size=12),
)
def test_answers_in_any_split(answers, cuts):
    client = ContentClientCore()
    data = b""
    for answer in answers:
        if isinstance(answer, Refused):
            client.request_manifest(Cid.of(b""))
            data += encode_refusal(answer.code, answer.message)
        else:
            client.request_span(Cid.of(b""), 0, 1, len(answer))
            data += encode_body_header(len(answer)) + answer
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    got = []
    for start, end in itertools.pairwise(edges):
        got += client.feed(data[start:end])
    client.finish()
    assert [a if isinstance(a, Refused) else bytes(a.data) for a in got] == answers


@given(st.binary(max_size=200), st.integers(1, 7))
def test_garbage_on_either_side(data, step):
    client, server = ContentClientCore(), ContentServerCore()
    client.request_span(Cid.of(b""), 0, 1, 10)
    client.request_manifest(Cid.of(b""))
    for core in (client, server):
        with contextlib.suppress(RemoteProtocolError):
            for start in range(0, len(data), step):
                for event in core.feed(data[start : start + step]):
                    assert not isinstance(event, Body) or len(event.data) <= 200


addresses = st.sampled_from(
    ["/ip4/192.0.2.7/tcp/1", "/ip6/2001:db8::1/tcp/65535", "/dns4/a.example/tcp/443/ws"]
).map(Multiaddr)


@given(st.binary(max_size=9), st.lists(addresses, max_size=16))
def test_ticket_round_trip(block, addrs):
    ticket = Ticket(Cid.of(block), PEER, tuple(addrs))
    assert Ticket.parse(str(ticket)) == ticket


@given(st.data())
def test_ticket_with_one_wrong_character_is_refused(data):
    text = str(Ticket(Cid.of(b"x"), PEER, (Multiaddr("/ip4/192.0.2.7/tcp/1"),)))
    index = data.draw(st.integers(8, len(text) - 2))  # the last one has bits that mean nothing
    wrong = data.draw(st.sampled_from(string.ascii_lowercase + "234567").filter(text[index].__ne__))
    for damaged in (
        text[:index] + wrong + text[index + 1 :],
        text[:index] + text[index + 1 :],
        text[:index] + wrong + text[index:],
    ):
        with contextlib.suppress(TicketError):
            Ticket.parse(damaged)
            raise AssertionError(damaged)


@given(st.text(max_size=100))
def test_garbage_tickets_and_paths(text):
    for parse in (Ticket.parse, lambda t: Ticket.parse("lattica1" + t), Cid.parse):
        with contextlib.suppress(TicketError):
            parse(text)
    with contextlib.suppress(ValueError):
        check_path(text)
