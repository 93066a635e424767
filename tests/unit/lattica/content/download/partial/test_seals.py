"""Bytes that were verified before are known again, and no others."""

from __future__ import annotations

from lattica.content.download.partial.seals import Seals


def test_bytes_are_known_again() -> None:
    seals = Seals(3)
    assert seals.fits(1, b"bytes") is None
    seals.seal(1, b"bytes")
    assert seals.fits(1, memoryview(b"bytes")) is True
    assert seals.fits(1, b"bytez") is False
    assert seals.fits(1, b"byte") is False
    assert seals.fits(1, b"") is False
    assert seals.fits(0, b"bytes") is None
    assert seals.fits(2, b"bytes") is None
    seals.seal(2, b"bytes")
    seals.seal(1, b"bytes")
    assert seals.fits(1, b"bytes") is seals.fits(2, b"bytes") is True


def test_what_others_have_sealed_is_not_known() -> None:
    one, two = Seals(1), Seals(1)
    one.seal(0, b"bytes")
    two.seal(0, b"bytes")
    two._tags[:] = one._tags
    assert two.fits(0, b"bytes") is False
