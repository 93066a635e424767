"""The opcodes of plain data in pickles of the protocols 4 and 5 (`pickletools` describes them)."""

from __future__ import annotations

from typing import Final

PROTO: Final = 0x80
FRAME: Final = 0x95
STOP: Final = 0x2E
MARK: Final = 0x28
POP: Final = 0x30
POP_MARK: Final = 0x31
MEMOIZE: Final = 0x94
BINGET: Final = 0x68
LONG_BINGET: Final = 0x6A

NONE: Final = 0x4E
TRUE: Final = 0x88
FALSE: Final = 0x89
BININT: Final = 0x4A
BININT1: Final = 0x4B
BININT2: Final = 0x4D
LONG1: Final = 0x8A
LONG4: Final = 0x8B
BINFLOAT: Final = 0x47
SHORT_BINUNICODE: Final = 0x8C
BINUNICODE: Final = 0x58
BINUNICODE8: Final = 0x8D
SHORT_BINBYTES: Final = 0x43
BINBYTES: Final = 0x42
BINBYTES8: Final = 0x8E
BYTEARRAY8: Final = 0x96

EMPTY_TUPLE: Final = 0x29
TUPLE: Final = 0x74
TUPLE1: Final = 0x85
TUPLE2: Final = 0x86
TUPLE3: Final = 0x87
EMPTY_LIST: Final = 0x5D
APPEND: Final = 0x61
APPENDS: Final = 0x65
EMPTY_DICT: Final = 0x7D
SETITEM: Final = 0x73
SETITEMS: Final = 0x75
EMPTY_SET: Final = 0x8F
ADDITEMS: Final = 0x90
FROZENSET: Final = 0x91

OBJECTS: Final = {
    0x63: "GLOBAL",
    0x93: "STACK_GLOBAL",
    0x52: "REDUCE",
    0x62: "BUILD",
    0x81: "NEWOBJ",
    0x92: "NEWOBJ_EX",
    0x69: "INST",
    0x6F: "OBJ",
    0x50: "PERSID",
    0x51: "BINPERSID",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}
"""What makes objects of a class, or asks the program for something: refused by its name."""
