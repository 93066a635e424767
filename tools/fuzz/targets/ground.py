"""Targets of the ground floor: framing, identity."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lattica.errors import AddressError, IdentityError, RemoteProtocolError
from lattica.nat.base.keys.identity import Identity, parse_peer_id
from lattica.nat.base.wire import (
    LengthPrefixed,
    NeedMoreData,
    decode_uvarint,
    encode_length_prefixed,
    encode_uvarint,
)
from tools.fuzz.target import KIB, Target, Violation
from tools.fuzz.targets.pieces import in_pieces, option

MESSAGE_LIMIT = 1 * KIB


def _uvarint(data: bytes) -> None:
    value, end = decode_uvarint(data)
    if encode_uvarint(value) != data[:end]:
        raise Violation(f"{data[:end]!r} decodes to {value}, which encodes otherwise")


def _length_prefixed(data: bytes) -> None:
    step, stream = option(data)
    decoder = LengthPrefixed(MESSAGE_LIMIT)
    messages: list[bytes] = []
    for piece in in_pieces(stream, step):
        messages += decoder.feed(piece)
        if decoder.pending > MESSAGE_LIMIT + 10:
            raise Violation(f"holds {decoder.pending} bytes")
    whole = b"".join(map(encode_length_prefixed, messages))
    if stream[: len(whole)] != whole or len(stream) - len(whole) != decoder.pending:
        raise Violation("the messages are not the stream")
    decoder.finish()


def _identity_file(data: bytes) -> None:
    # The decoder is given a path, and looks at the mode of the file.
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "key"
        path.write_bytes(data)
        os.chmod(path, 0o600)
        identity = Identity.load(path)
    if not identity.public_key.verify(b"x", identity.sign(b"x")):
        raise Violation("a loaded key does not verify its own signature")


def _peer_id(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    peer_id = parse_peer_id(text)
    if parse_peer_id(str(peer_id)) != peer_id:
        raise Violation(f"{text!r} parses to {peer_id}, which parses otherwise")


KEY = Identity(b"\x01" * 32)

UVARINT = Target(
    "uvarint",
    _uvarint,
    (RemoteProtocolError, NeedMoreData),
    seeds=[encode_uvarint(n) for n in (0, 127, 128, 2**32, 2**63, 2**64 - 1)],
    max_size=32,
)
LENGTH_PREFIXED = Target(
    "length-prefixed",
    _length_prefixed,
    (RemoteProtocolError,),
    seeds=[
        b"\x00" + b"".join(encode_length_prefixed(b"x" * n) for n in (0, 1, 127, 128, 1024)),
        b"\x01" + encode_length_prefixed(b"hello") * 3,
        b"\x07" + encode_length_prefixed(b"x" * 1025),
    ],
    tokens=[encode_uvarint(n) for n in (1024, 1025, 2**31, 2**64 - 1)],
)
IDENTITY_FILE = Target(
    "identity-file",
    _identity_file,
    (IdentityError,),
    seeds=[
        b"\x08\x01\x12\x40" + KEY.seed + KEY.public_key.data,
        b"\x08\x01\x12\x40" + bytes(64),
        b"\x08\x02\x12\x20" + b"\x01" * 32,
    ],
    tokens=[b"\x08\x00", b"\x08\x01", b"\x08\x02", b"\x08\x03", b"\x12\x40"],
    max_size=2 * KIB,
)
PEER_ID = Target(
    "peer-id",
    _peer_id,
    (AddressError,),
    seeds=[
        str(KEY.peer_id).encode(),
        b"QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        b"bafzaajaiaejca24q7uhr7adt3rtai4ixtn2r3q72kccwvwzg6wnfetwqyvrs5n2d",
    ],
    tokens=[b"12D3KooW", b"Qm", b"bafz", b"/p2p/", b" "],
    max_size=256,
)
