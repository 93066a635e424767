"""Comparing bytes from others with what a manifest says of them. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from lattica.content.errors import IntegrityError
from lattica.content.manifest.manifest import Manifest
from lattica.nat.base.errors import LocalProtocolError


def verified_chunks(
    manifest: Manifest, first: int, count: int, data: bytes | memoryview, source: str
) -> Iterator[tuple[int, memoryview]]:
    """Numbers and bytes of consecutive chunks, each compared with its hash before it is given out.

    Raises:
        IntegrityError: the next one is wrong; names `source`, who has sent the bytes.
        LocalProtocolError: there are more bytes than these chunks have.
    """
    view = memoryview(data)
    start = 0
    for number in range(first, first + count):
        chunk = manifest.chunk(number)
        piece = view[start : start + chunk.length]
        start += chunk.length
        if hashlib.sha256(piece).digest() != chunk.digest:
            path = manifest.files[manifest.locate(number)[0]].path
            raise IntegrityError(
                f"{source} has sent wrong bytes for {path!r} (chunk {number}); they were "
                "discarded. Fetch from another provider, or have this one publish again"
            )
        yield number, piece
    if start != len(view):
        raise LocalProtocolError(f"{len(view)} bytes for chunks of {start}")
