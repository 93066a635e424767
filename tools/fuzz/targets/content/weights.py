"""Fuzz targets of weight channels: what is announced, and deltas."""

from __future__ import annotations

import msgpack

from lattica.content.manifest.cid import Cid
from lattica.content.ticket import Ticket
from lattica.content.weights.announcement import (
    Announcement,
    Channel,
    DeltaRef,
    open_announcement,
)
from lattica.content.weights.delta import Region, apply_delta, make_delta
from lattica.errors import IntegrityError, RemoteProtocolError
from lattica.nat.base.keys.envelope import seal_envelope
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.multiaddr import Multiaddr
from tools.fuzz.target import Target

_TRAINER = Identity.generate()
_CHANNEL = Channel(_TRAINER.peer_id, "policy")
_CID = Cid(bytes(32))
_SIZE = 64 * 1024
_OLD, _NEW = bytes(_SIZE), b"".join(bytes((n & 1, 0)) * 50 + bytes(412) for n in range(128))


def _announcement(data: bytes) -> None:
    """Signed by whom it should be: what is in it is the publisher's."""
    sealed = seal_envelope(_TRAINER, "lattica-weights", b"/lattica/weights", data)
    said = open_announcement(sealed, _CHANNEL)
    assert said.channel == _CHANNEL
    said.way_from({})


def _delta(data: bytes) -> None:
    target = bytearray(_OLD)
    apply_delta(data, memoryview(target))
    assert len(target) == _SIZE


_SAID = Announcement(
    _CHANNEL,
    5,
    3,
    Ticket(_CID, _TRAINER.peer_id, (Multiaddr("/ip4/192.0.2.1/tcp/4001"),)),
    1000,
    (DeltaRef(_CID, _CID, _CID, 7),),
)
_FIELDS = [
    1,
    "policy",
    5,
    3,
    _CID.digest,
    1000,
    [[_CID.digest] * 3 + [7]],
    [address.to_bytes() for address in _SAID.ticket.addrs],
]
_MADE = make_delta(
    memoryview(_OLD), memoryview(_NEW[:_SIZE]), [Region(n, 512, 2) for n in range(0, _SIZE, 512)]
)
assert _MADE is not None

ANNOUNCEMENT = Target(
    "weights-announcement",
    _announcement,
    (RemoteProtocolError,),
    seeds=[msgpack.packb(_FIELDS)],
    tokens=[b"\xdd\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8, b"\xc0", b"\xc3", b"\xc4\x20"],
)
DELTA = Target(
    "weights-delta",
    _delta,
    (IntegrityError,),
    seeds=[_MADE],
    tokens=[b"\x28\xb5\x2f\xfd", b"\xdd\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8, b"\x95", b"\xd3"],
)
