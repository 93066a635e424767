"""Compressed bodies: skeleton and buffers, each by itself, and no larger than they are said to be.

zstd and lz4 are in the extra `compression`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from lattica.nat.base.errors import LocalProtocolError, RemoteProtocolError
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.encoding.memory import allocate
from lattica.rpc.errors import UnimplementedError

WORTH: Final = 1024
"""Bytes below which a body goes as it is."""
MAX_RATIO: Final = 500
"""How many times its size a compressed body may have when it is unpacked."""
IN_THREAD: Final = 256 * 1024
"""Bytes above which it is done in a thread, for the sake of everybody else."""
MANY_BUFFERS: Final = 64
"""Buffers above which it is, too: each costs something, however small it is."""
_SHORTEST_WINDOW: Final = 2**10
_LONGEST_WINDOW: Final = 2**27
"""Bytes that a zstd frame may make its reader remember: as many as the largest part of its message
has, within these."""

_pack: Final = msgpack.Packer().pack


def check(algorithm: str) -> None:
    """Raises LocalProtocolError unless it can be used here."""
    try:
        _module(algorithm)
    except UnimplementedError as error:
        raise LocalProtocolError(str(error)) from None


def _module(algorithm: str) -> Any:
    try:
        if algorithm == "zstd":
            import zstandard

            return zstandard
        if algorithm == "lz4":
            import lz4.block

            return lz4.block
    except ImportError:
        raise UnimplementedError(
            f"{algorithm} is not installed here: pip install 'lattica-stack[compression]'",
            may_have_run=False,
        ) from None
    raise UnimplementedError(
        f"a body can be compressed by zstd or lz4, not by {algorithm!r:.50}", may_have_run=False
    )


def compress(body: Encoded, algorithm: str) -> Encoded | None:
    """The body, compressed; None if that makes it no smaller, or smaller than a peer believes."""
    module = _module(algorithm)
    squeeze: Callable[[Any], bytes]
    if algorithm == "zstd":
        squeeze = module.ZstdCompressor(level=1).compress
    else:
        squeeze = lambda data: module.compress(data, store_size=False)  # noqa: E731
    skeleton = squeeze(body.skeleton)
    buffers = [squeeze(each) for each in body.buffers]
    smaller = len(skeleton) + sum(map(len, buffers))
    if not smaller < body.size <= MAX_RATIO * smaller:
        return None
    sizes = [len(body.skeleton), *(len(each) << 1 | (type(each) is bytes) for each in body.buffers)]
    return Encoded(_pack([algorithm, sizes, skeleton]), tuple(buffers))


def _parts_of(skeleton: bytes, buffers: int) -> tuple[str, list[Any], bytes]:
    """Algorithm, sizes and compressed skeleton, item by item: no list is made for more items than
    there are to be. Raises RemoteProtocolError.
    """
    reader = msgpack.Unpacker(
        max_buffer_size=max(len(skeleton), 1), max_array_len=0, max_map_len=0, max_ext_len=0
    )
    reader.feed(skeleton)
    try:
        is_whole = reader.read_array_header() == 3
        algorithm = reader.unpack() if is_whole else None
        if type(algorithm) is str:
            _module(algorithm)
            if reader.read_array_header() == buffers + 1:
                sizes = [reader.unpack() for _ in range(buffers + 1)]
                packed = reader.unpack()
                if type(packed) is bytes and reader.tell() == len(skeleton):
                    return algorithm, sizes, packed
    except UnimplementedError:
        raise
    except Exception:  # msgpack's own
        raise _no_sizes() from None
    raise _no_sizes()


def _no_sizes() -> RemoteProtocolError:
    return RemoteProtocolError("RPC: a compressed body without its sizes")


class Compressed:
    """A compressed body whose skeleton has arrived: what it takes to unpack it.

    Raises RemoteProtocolError for what is none, or claims more than MAX_RATIO times its size.
    """

    def __init__(self, skeleton: bytes, buffers: tuple[int, ...]) -> None:
        algorithm, sizes, packed = _parts_of(skeleton, len(buffers))
        if not all(type(size) is int and 0 <= size < 2**48 for size in sizes):
            raise _no_sizes()
        self._algorithm = algorithm
        self._sizes = sizes
        self._skeleton = packed
        self.skeleton: int = sizes[0]
        """Bytes of the skeleton, unpacked."""
        self.size: int = sizes[0] + sum(size >> 1 for size in sizes[1:])
        """Bytes, unpacked."""
        received = len(skeleton) + sum(buffers)
        if self.size > MAX_RATIO * max(received, 1):
            raise RemoteProtocolError(
                f"RPC: {received} bytes that would be {self.size} unpacked, which is more than "
                f"{MAX_RATIO} times as many"
            )
        self._module = _module(algorithm)

    def unpack(
        self, buffers: Sequence[bytes | memoryview]
    ) -> tuple[bytes, list[bytes | memoryview]]:
        """Skeleton and buffers as they were. Raises RemoteProtocolError."""
        unpack = self._unpacker()
        skeleton = bytes(unpack(self._skeleton, self._sizes[0]))
        unpacked: list[bytes | memoryview] = []
        for data, size in zip(buffers, self._sizes[1:], strict=True):
            memory = unpack(data, size >> 1)
            unpacked.append(bytes(memory) if size & 1 else memory)
        return skeleton, unpacked

    def _unpacker(self) -> Callable[[bytes | memoryview, int], memoryview]:
        """What unpacks the parts of this message, one after the other."""
        read_into = self._lz4 if self._algorithm == "lz4" else self._zstd()

        def unpack(data: bytes | memoryview, size: int) -> memoryview:
            memory = allocate(size)
            try:
                is_all = read_into(data, memory)
            except Exception as error:  # of the library
                raise RemoteProtocolError(f"RPC: a body that cannot be unpacked: {error}") from None
            if not is_all:
                raise RemoteProtocolError("RPC: a compressed body of another size than it says")
            return memory

        return unpack

    def _zstd(self) -> Callable[[bytes | memoryview, memoryview], bool]:
        largest = max(self._sizes[0], *(size >> 1 for size in self._sizes[1:]), 0)
        window = min(max(largest, _SHORTEST_WINDOW), _LONGEST_WINDOW)
        # One for all: it keeps its window, which it would take anew for each.
        decompressor = self._module.ZstdDecompressor(max_window_size=window)

        def read_into(data: bytes | memoryview, memory: memoryview) -> bool:
            filled = 0
            with decompressor.stream_reader(data) as reader:
                while filled < len(memory) and (count := reader.readinto(memory[filled:])):
                    filled += count
                return filled == len(memory) and not reader.read(1)

        return read_into

    def _lz4(self, data: bytes | memoryview, memory: memoryview) -> bool:
        plain = self._module.decompress(data, uncompressed_size=len(memory))
        if len(plain) != len(memory):
            return False
        memory[:] = plain
        return True
