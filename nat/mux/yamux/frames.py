"""The frame header of yamux 1.0.0 (hashicorp/yamux spec.md)."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

HEADER_SIZE = 12
PROTOCOL_VERSION = 0
MAX_BODY = 1024 * 1024
"""Bytes in a frame that every implementation takes: rust-yamux ends a connection over one more."""

_header = struct.Struct(">BBHII")
pack_header = _header.pack
pack_header_into = _header.pack_into
unpack_header = _header.unpack_from
"""(version, type, flags, stream id, length)"""


class FrameType(IntEnum):
    DATA = 0
    WINDOW_UPDATE = 1
    PING = 2
    GO_AWAY = 3


class Flag(IntFlag):
    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class GoAwayCode(IntEnum):
    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
