"""Target of Bitswap: messages of strangers."""

from __future__ import annotations

from lattica.content.bitswap.messages import Message, Want, decode, encode
from lattica.content.manifest.cid import Cid
from lattica.errors import RemoteProtocolError
from tools.fuzz.target import Target, Violation

CID = bytes(Cid.of(b"block"))


def _message(data: bytes) -> None:
    message = decode(data)
    if decode(encode(message)) != message:
        raise Violation(f"{message} is another one once written and read")


BITSWAP = Target(
    "bitswap",
    _message,
    (RemoteProtocolError,),
    seeds=[
        encode(Message(wants=(Want(CID), Want(CID, have_only=True, send_dont_have=True)))),
        encode(Message(wants=(Want(CID, cancel=True),), full=True)),
        encode(Message(blocks=(b"block", b""), haves=(CID,), dont_haves=(CID,))),
    ],
    tokens=[CID, b"\x0a\x24", b"\x12\x20", b"\x1a", b"\x22", b"\x28\x01"],
)
