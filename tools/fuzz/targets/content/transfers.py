"""Targets of content: manifests, tickets, safetensors headers, the transfer protocol."""

from __future__ import annotations

import base64
import contextlib
import hashlib

import msgpack

from lattica.content.download.plan import Plan
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import decode_manifest, encode_manifest
from lattica.content.manifest.manifest import (
    MAX_MANIFEST_BYTES,
    ChunkTable,
    FileEntry,
    ListedChunks,
    Manifest,
)
from lattica.content.manifest.tensor_files.gguf_header import build_gguf_header, parse_gguf
from lattica.content.manifest.tensor_files.safetensors_header import (
    LENGTH_BYTES,
    Tensor,
    build_header,
    parse_header,
    parse_safetensors,
    tensor_bytes,
)
from lattica.content.protocol import (
    MAX_SPAN_CHUNKS,
    Body,
    ContentClientCore,
    ContentServerCore,
    ManifestRequest,
    Refusal,
    SpanRequest,
    encode_body_header,
    encode_refusal,
    encode_request,
)
from lattica.content.swarm.messages import (
    Has,
    HasMore,
    Hello,
    Member,
    Members,
    decode_hello,
    decode_message,
    encode_hello,
    encode_message,
)
from lattica.content.ticket import Ticket
from lattica.errors import ContentError, RemoteProtocolError, TicketError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.base.wire import encode_length_prefixed
from tools.fuzz.target import KIB, MIB, Target, Violation
from tools.fuzz.targets.pieces import in_pieces, option

CID = Cid.of(b"a block")
TENSORS = [Tensor("w", "F32", (2, 3), 0), Tensor("b", "BF16", (4,), 0), Tensor("e", "I8", (0,), 0)]
HEADER = build_header([("format", "pt")], TENSORS)
FILE_SIZE = len(HEADER) + sum(tensor.length for tensor in TENSORS)


def _manifest_example() -> Manifest:
    layout = parse_header(HEADER[LENGTH_BYTES:], FILE_SIZE)
    chunks = ChunkTable.from_chunks([FILE_SIZE], bytes(32))
    return Manifest(
        "name",
        (
            FileEntry("model.safetensors", False, chunks, layout),
            FileEntry("sub/ü.bin", True, ChunkTable.from_chunks([1 << 20, 7], bytes(64))),
            FileEntry("empty", False, ChunkTable.from_chunks([], b"")),
        ),
    )


def _listed_example() -> Manifest:
    """One in two levels."""
    chunks = ChunkTable.from_chunks([1 << 20] * 5000, bytes(32 * 5000))
    return Manifest("name", (FileEntry("large", False, chunks),))


def _manifest(data: bytes) -> None:
    manifest = decode_manifest(data)
    if encode_manifest(manifest) != data:
        raise Violation("a decoded manifest encodes otherwise")
    for file in manifest.files:
        parts = file.path.split("/")
        if not file.path or file.path.startswith("/") or {"", ".", ".."} & set(parts):
            raise Violation(f"the path {file.path!r} is accepted")
        if isinstance(file.chunks, ListedChunks):
            if file.size != sum(ref.size for ref in file.chunks.refs):
                raise Violation("the size of a file is not that of its lists")
        elif file.size != sum(chunk.length for chunk in file.chunks):
            raise Violation("the size of a file is not that of its chunks")
        if file.layout is not None:
            end = file.layout.data_start + sum(t.length for t in file.layout.tensors)
            if end != file.size:
                raise Violation("the tensors do not fill their file")
    for pattern in (None, "*"):
        with contextlib.suppress(ContentError):  # no tensor matches
            plan = Plan(CID, manifest, pattern)
            if plan.lists():
                continue
            for number in plan.chunks:
                for place in plan.placements(number):
                    if place.offset + place.length > plan.outputs[place.output].size:
                        raise Violation(f"chunk {number} is placed outside of its file")


def _gguf_header(data: bytes) -> None:
    size, rest = option(data)
    file_size = len(rest) + size - 128
    layout = parse_gguf(lambda at, count: rest[at : at + count], file_size)
    for tensor in layout.tensors:
        if not layout.data_start <= tensor.offset <= tensor.offset + tensor.length <= file_size:
            raise Violation(f"{tensor.name!r} lies outside of its file")
    prefix, infix = build_gguf_header(layout, layout.tensors)
    if prefix != rest[: len(prefix)] or len(infix) != layout.data_start - layout.pairs_end:
        raise Violation("the header of all tensors is not the file's")


def _safetensors_header(data: bytes) -> None:
    size, rest = option(data)
    file_size = FILE_SIZE + size - 128
    layout = parse_safetensors(lambda at, count: rest[at : at + count], file_size)
    for tensor in layout.tensors:
        if not layout.data_start <= tensor.offset <= tensor.offset + tensor.length <= file_size:
            raise Violation(f"{tensor.name!r} lies outside of its file")
        if tensor_bytes(tensor.dtype, tensor.shape) != tensor.length:
            raise Violation(f"{tensor.name!r} is not as long as its shape says")
    again = build_header(layout.metadata, layout.tensors)
    total = len(again) + sum(tensor.length for tensor in layout.tensors)
    if parse_header(again[LENGTH_BYTES:], total).metadata != layout.metadata:
        raise Violation("a parsed header does not survive being written")


def _ticket(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    ticket = Ticket.parse(text)
    if Ticket.parse(str(ticket)) != ticket:
        raise Violation("a parsed ticket does not survive being written")


def _ticket_body(data: bytes) -> None:
    """As `ticket`, behind the length and checksum, which mutation never gets right."""
    framed = (len(data) + 6).to_bytes(2, "big") + data
    framed += hashlib.sha256(framed).digest()[:4]
    _ticket(b"lattica1" + base64.b32encode(framed).rstrip(b"=").lower())


def _cid(data: bytes) -> None:
    kind, rest = option(data)
    if kind % 2:
        if bytes(Cid.from_bytes(rest)) != rest:
            raise Violation("a content id has two binary forms")
    else:
        text = rest.decode("utf-8", "surrogateescape")
        if str(Cid.parse(text)) != text:
            raise Violation("a content id has two text forms")


def _content_server(data: bytes) -> None:
    step, stream = option(data)
    core = ContentServerCore()
    for piece in in_pieces(stream, step):
        for request in core.feed(piece):
            if isinstance(request, SpanRequest) and not 0 < request.count <= MAX_SPAN_CHUNKS:
                raise Violation(f"{request} is accepted")
            encode_request(request)
    core.finish()


def _content_client(data: bytes) -> None:
    step, stream = option(data)
    core = ContentClientCore()
    core.request_manifest(CID)
    sizes = [100, 1, 70_000]
    for size in sizes:
        core.request_span(CID, 0, 1, size)
    answers = []
    for piece in in_pieces(stream, step):
        answers += core.feed(piece)
        if not core.buffer():
            raise Violation("nowhere to put the next bytes")
    for answer, wanted in zip(answers[1:], sizes, strict=False):
        if isinstance(answer, Body) and len(answer.data) != wanted:
            raise Violation(f"{len(answer.data)} bytes where {wanted} were asked for")
    core.finish()


def _holdings(data: bytes) -> None:
    kind, rest = option(data)
    if kind % 2:
        hello = decode_hello(rest)
        if decode_hello(encode_hello(hello)) != hello:
            raise Violation("a decoded greeting does not survive being encoded")
        return
    message = decode_message(rest)
    if decode_message(encode_message(message)) != message:
        raise Violation("a decoded message about holdings does not survive being encoded")


_PEER = PeerId.from_base58("12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5")
_TICKET = Ticket(CID, _PEER, (Multiaddr("/ip4/192.0.2.1/tcp/4001"), Multiaddr("/dns/a.b/tcp/1")))
_BODY = msgpack.packb([CID.digest, _PEER.to_bytes(), [addr.to_bytes() for addr in _TICKET.addrs]])
_MSGPACK = [
    b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\xdb\x7f\xff\xff\xff",
    b"\xdf\x7f\xff\xff\xff", b"\xc9\x7f\xff\xff\xff\x05", b"\xcf" + b"\xff" * 8, b"\xc0", b"\xc3",
    b"\xc4\x20" + bytes(32), b"\x90", b"\x93", b"\x95", b"\xa2..", b"\xa1/", b"\xa0",
    b"\xd3" + b"\x80" * 8,
]  # fmt: skip

MANIFEST = Target(
    "manifest",
    _manifest,
    (RemoteProtocolError,),
    seeds=[
        encode_manifest(_manifest_example()),
        encode_manifest(_listed_example()),
        encode_manifest(Manifest("n", ())),
    ],
    tokens=[*_MSGPACK, b"\xa3F32", b"\xc4\x04\x00\x10\x00\x00"],
)
SAFETENSORS_HEADER = Target(
    "safetensors-header",
    _safetensors_header,
    (ValueError,),
    seeds=[b"\x80" + HEADER, b"\x68\x02" + bytes(7) + b"{}"],
    tokens=[
        b'"dtype":', b'"shape":[', b'"data_offsets":[', b'"__metadata__":{', b"{", b"}", b"[" * 50,
        b"9" * 5000, b"1e999", b"NaN", b"-0", b'"\\ud800"', b'"F4"', b"9223372036854775807",
    ],
)  # fmt: skip
GGUF_HEADER = Target(
    "gguf-header",
    _gguf_header,
    (ValueError,),
    seeds=[
        b"\x80GGUF\x03\0\0\0" + bytes(16),
        b"\xa0GGUF\x03\0\0\0\x01" + bytes(7) + b"\x01" + bytes(7)
        + b"\x01" + bytes(7) + b"k\x09\0\0\0\x08\0\0\0\x01" + bytes(7) + b"\x01" + bytes(7) + b"t"
        + b"\x01" + bytes(7) + b"w\x01\0\0\0\x04" + bytes(7) + bytes(4) + bytes(8),
    ],
    tokens=[
        b"\x11" + bytes(7) + b"general.alignment\x04\0\0\0", b"\x09\0\0\0", b"\x08\0\0\0",
        b"\xff" * 8, bytes(7) + b"\x80", b"\x0c\0\0\0",
    ],
)  # fmt: skip
TICKET = Target(
    "ticket",
    _ticket,
    (TicketError,),
    seeds=[str(_TICKET).encode(), str(Ticket(CID, _PEER, ())).encode(), b"lattica2abc"],
    tokens=[b"lattica1", b"\n", b" ", "ı".encode(), "ﬀ".encode(), b"aa", b"77"],
)
TICKET_BODY = Target(
    "ticket-body",
    _ticket_body,
    (TicketError,),
    seeds=[_BODY],
    tokens=[*_MSGPACK, b"\x04\x7f\0\0\1"],
)
CID_FORMS = Target(
    "cid",
    _cid,
    (RemoteProtocolError, TicketError),
    seeds=[b"\x00" + str(CID).encode(), b"\x01" + bytes(CID)],
    tokens=[b"bafkrei", b"\x01\x55\x12\x20"],
    max_size=128,
)
CONTENT_SERVER = Target(
    "content-server",
    _content_server,
    (RemoteProtocolError,),
    seeds=[
        b"\x00" + encode_request(ManifestRequest(CID)) + encode_request(SpanRequest(CID, 5, 9)),
        b"\x01" + encode_request(SpanRequest(CID, 2**32 - 1, MAX_SPAN_CHUNKS)),
    ],
    tokens=_MSGPACK,
)
CONTENT_CLIENT = Target(
    "content-client",
    _content_client,
    (RemoteProtocolError,),
    seeds=[
        b"\x00" + encode_body_header(5) + b"hello" + encode_body_header(100) + bytes(100),
        b"\x03" + encode_refusal(Refusal.BUSY, "later") * 4,
        b"\x00" + encode_body_header(MAX_MANIFEST_BYTES),
        b"\x00" + encode_length_prefixed(msgpack.packb([0, MAX_MANIFEST_BYTES + 1])),
    ],
    tokens=_MSGPACK,
    # The manifest that is announced gets its memory at once: it was asked for.
    max_memory=MAX_MANIFEST_BYTES + 16 * MIB,
    max_size=4 * KIB,
)
HOLDINGS = Target(
    "holdings",
    _holdings,
    (RemoteProtocolError,),
    seeds=[
        b"\x01" + encode_hello(Hello(CID, True, _TICKET.addrs)),
        *(
            b"\x00" + encode_message(message)
            for message in (
                Has(9, 0b1_0000_0001),
                Has(9, None),
                HasMore((1, 2)),
                Members((Member(_PEER, _TICKET.addrs),)),
            )
        ),
    ],
    tokens=_MSGPACK,
)
