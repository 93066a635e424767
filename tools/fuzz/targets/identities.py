"""Targets of what peers say of themselves: keys, peer IDs, envelopes, peer records, identify."""

from __future__ import annotations

from lattica.errors import RemoteProtocolError
from lattica.nat.base.keys.envelope import open_envelope, seal_envelope
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.keys.peer_id import PeerId, decode_peer_id, parse_peer_id
from lattica.nat.base.keys.peer_record import (
    DOMAIN,
    MAX_ADDRS,
    PAYLOAD_TYPE,
    open_record,
    seal_record,
)
from lattica.nat.base.keys.public_keys import decode_public_key
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.patience import Patience
from lattica.nat.services.identify.messages import (
    MAX_ADDRS as MAX_IDENTIFY_ADDRS,
)
from lattica.nat.services.identify.messages import (
    MAX_AGENT,
    MAX_PROTOCOLS,
    Identify,
    decode,
    encode,
)
from tools.fuzz.target import KIB, Target, Violation

OWN = Identity(b"\x01" * 32)
ADDR = Multiaddr("/ip4/192.0.2.1/tcp/4001")
_RSA_MODULUS = b"\x02\x82\x01\x01\x00" + b"\xc1" * 256
_RSA_BODY = b"\x30\x82\x01\x0a" + _RSA_MODULUS + b"\x02\x03\x01\x00\x01"
_RSA_DER = (
    b"\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00"
    b"\x03\x82\x01\x0f\x00" + _RSA_BODY
)
_P256 = bytes.fromhex(
    "0803125b3059301306072a8648ce3d020106082a8648ce3d03010703420004de3d300fa36ae0e8f5d530899d83"
    "abab44abf3161f162a4bc901d8e6ecda020e8b6d5f8da30525e71d6851510c098e5c47c646a597fb4dcec034e9"
    "f77c409e62"
)
_SECP256K1 = bytes.fromhex(
    "08021221037777e994e452c21604f91de093ce415f5432f701dd8cd1a7a6fea0e630bfca99"
)


def _public_key(data: bytes) -> None:
    key = decode_public_key(data)
    if decode_public_key(key.encode()) != key:
        raise Violation("a key is another one once written and read again")
    if decode_peer_id(PeerId.from_public_key(key).to_bytes()) != PeerId.from_public_key(key):
        raise Violation("a key whose peer ID is none")
    if key.verify(b"nobody has signed this", data[-64:]):
        raise Violation("a signature that nobody has made")


def _peer_id_binary(data: bytes) -> None:
    peer_id = decode_peer_id(data)
    forms = {parse_peer_id(str(peer_id)), parse_peer_id(peer_id.to_cid()), PeerId(data)}
    if forms != {peer_id} or peer_id.to_bytes() != data:
        raise Violation(f"{peer_id} is another one in another form")


def _envelope(data: bytes) -> None:
    opened = open_envelope(data, "fuzz", b"\x01", "a payload", limit=4 * KIB)
    # The only envelope that anybody has signed for this purpose.
    if (opened.signer, opened.payload) != (OWN.public_key, b"payload"):
        raise Violation("a forged envelope was taken")


def _peer_record(data: bytes) -> None:
    record = open_record(data)
    if record.peer_id != OWN.peer_id or len(record.addrs) > MAX_ADDRS:
        raise Violation("a forged record was taken, or one with too many addresses")


def _identify(data: bytes) -> None:
    message = decode(data)
    if (
        len(message.listen_addrs) > MAX_IDENTIFY_ADDRS
        or len(message.protocols) > MAX_PROTOCOLS
        or len(message.agent_version) > MAX_AGENT
    ):
        raise Violation("more was taken than the limits allow")
    if decode(encode(message)) != message:
        raise Violation("a message is another one once written and read again")


PUBLIC_KEY = Target(
    "public-key",
    _public_key,
    (RemoteProtocolError,),
    seeds=[
        OWN.public_key_bytes,
        _SECP256K1,
        _P256,
        b"\x08\x00\x12\xa6\x02" + _RSA_DER,
        b"\x08\x00\x12\x04\x30\x82\xff\xff",
    ],
    tokens=[
        b"\x08\x00", b"\x08\x01", b"\x08\x02", b"\x08\x03", b"\x08\x63", b"\x12\x20", b"\x12\x21",
        b"\x30\x80", b"\x30\x82", b"\x02\x82\x20\x01", b"\x03\x82", b"\x02\x01\x03", b"\x00",
    ],
    max_size=2 * KIB,
)  # fmt: skip
PEER_ID_BINARY = Target(
    "peer-id-binary",
    _peer_id_binary,
    (RemoteProtocolError,),
    seeds=[OWN.peer_id.to_bytes(), b"\x12\x20" + bytes(32), b"\x00\x01\x00", b"\x01\x72\x00\x24"],
    tokens=[b"\x12\x20", b"\x00\x24", b"\x00\x2a", b"\x01\x72"],
    max_size=64,
)
ENVELOPE = Target(
    "envelope",
    _envelope,
    (RemoteProtocolError,),
    seeds=[
        seal_envelope(OWN, "fuzz", b"\x01", b"payload"),
        seal_envelope(OWN, "other", b"\x01", b"payload"),
        seal_envelope(OWN, "fuzz", b"\x02", b"payload"),
    ],
    tokens=[b"\x0a\x24", b"\x12\x01\x01", b"\x1a\x07", b"\x2a\x40", b"\x08\x01\x12\x20"],
    max_size=2 * KIB,
)
PEER_RECORD = Target(
    "peer-record",
    _peer_record,
    (RemoteProtocolError,),
    seeds=[
        seal_record(OWN, 1, [ADDR]),
        seal_record(OWN, 2**64 - 1, []),
        seal_envelope(OWN, DOMAIN, PAYLOAD_TYPE, b"\x0a\x02\x00\x00\x10\x01"),
        seal_envelope(OWN, DOMAIN, PAYLOAD_TYPE, b"\xff"),
    ],
    tokens=[b"\x03\x01", b"\x1a\x0a\x0a\x08", OWN.peer_id.to_bytes()],
    max_size=2 * KIB,
)
IDENTIFY = Target(
    "identify",
    _identify,
    (RemoteProtocolError,),
    seeds=[
        encode(
            Identify(
                public_key=OWN.public_key_bytes,
                listen_addrs=(ADDR, Multiaddr(f"{ADDR}/p2p/{OWN.peer_id}/p2p-circuit")),
                protocols=("/a/1", "/b/1"),
                observed_addr=ADDR,
                protocol_version="/lattica/1.0.0",
                agent_version="lattica-stack/1",
                signed_record=seal_record(OWN, 1, [ADDR]),
                patience=Patience(30, 13),
            )
        ),
        b"\x12\x08" + ADDR.to_bytes(),
        b"\x22\x02\xff\xff",
        b"\x1a\x02\xff\xff\x32\x01\xff",
    ],
    tokens=[b"\x0a", b"\x12\x08", b"\x1a\x04", b"\x22\x08", b"\x2a", b"\x32", b"\x42", b"\xff"],
)  # fmt: skip
