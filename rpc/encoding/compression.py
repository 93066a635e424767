"""Compressed bodies: skeleton and buffers, each by itself, and no larger than they are said to be.

zstd and lz4 are in the extra `compression`.
"""

from __future__ import annotations

from collections.abc import Callable
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
_LONGEST_WINDOW: Final = 2**27
"""Bytes that a zstd frame may make its reader remember."""

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


class Compressed:
    """A compressed body whose skeleton has arrived: what it takes to unpack it.

    Raises RemoteProtocolError for what is none, or claims more than MAX_RATIO times its size.
    """

    def __init__(self, skeleton: bytes, buffers: tuple[int, ...]) -> None:
        try:
            algorithm, sizes, packed = msgpack.unpackb(skeleton)
        except Exception:
            raise RemoteProtocolError("RPC: a compressed body without its sizes") from None
        if not (
            type(algorithm) is str
            and type(packed) is bytes
            and type(sizes) is list
            and len(sizes) == len(buffers) + 1
            and all(type(size) is int and 0 <= size < 2**48 for size in sizes)
        ):
            raise RemoteProtocolError("RPC: a compressed body without its sizes")
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

    def unpack(self, buffers: list[bytes]) -> tuple[bytes, list[bytes | memoryview]]:
        """Skeleton and buffers as they were. Raises RemoteProtocolError."""
        skeleton = bytes(self._unpack(self._skeleton, self._sizes[0]))
        unpacked: list[bytes | memoryview] = []
        for data, size in zip(buffers, self._sizes[1:], strict=True):
            memory = self._unpack(data, size >> 1)
            unpacked.append(bytes(memory) if size & 1 else memory)
        return skeleton, unpacked

    def _unpack(self, data: bytes, size: int) -> memoryview:
        memory = allocate(size)
        try:
            if self._algorithm == "zstd":
                decompressor = self._module.ZstdDecompressor(max_window_size=_LONGEST_WINDOW)
                with decompressor.stream_reader(data) as reader:
                    filled = 0
                    while filled < size and (count := reader.readinto(memory[filled:])):
                        filled += count
                    is_all = filled == size and not reader.read(1)
            else:
                plain = self._module.decompress(data, uncompressed_size=size)
                is_all = len(plain) == size
                if is_all:
                    memory[:] = plain
        except Exception as error:  # of the library
            raise RemoteProtocolError(f"RPC: a body that cannot be unpacked: {error}") from None
        if not is_all:
            raise RemoteProtocolError("RPC: a compressed body of another size than it says")
        return memory
