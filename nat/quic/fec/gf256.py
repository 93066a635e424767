"""A systematic erasure code over GF(256): `m` repairs give back any `m` lost symbols of a group.

The generator is a Cauchy matrix whose columns are scaled so that its first row is all ones,
hence one repair symbol is the plain parity of its group; scaling a column by something other
than zero leaves every square submatrix invertible, which is what makes any `m` repairs enough
(J. Blömer et al., "An XOR-Based Erasure-Resilient Coding Scheme", ICSI TR-95-048, 1995).

Symbols are Python integers: one XOR of them is a single loop in C. A sum of products is sorted
by the bits of the coefficients, Σ cᵢ·dᵢ = Σ_b xᵇ·(Σ dᵢ of those whose cᵢ has bit b), so that a
row costs about four XORs a symbol, and seven doublings at its end. That is a quarter of what
multiplying each symbol with `bytes.translate` would take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from lattica.nat.base.errors import LocalProtocolError

MAX_REPAIRS = 24
MAX_SYMBOLS = 256 - MAX_REPAIRS
_POLYNOMIAL = 0x11D
_BITS = range(7, -1, -1)


def _powers() -> tuple[bytes, bytes]:
    exponents, logarithms = bytearray(510), bytearray(256)
    value = 1
    for power in range(255):
        exponents[power] = exponents[power + 255] = value
        logarithms[value] = power
        value = value << 1 ^ (_POLYNOMIAL if value & 0x80 else 0)
    return bytes(exponents), bytes(logarithms)


_EXP, _LOG = _powers()


def multiply(a: int, b: int) -> int:
    """The product of two elements."""
    return _EXP[_LOG[a] + _LOG[b]] if a and b else 0


def inverse(a: int) -> int:
    """The element that gives 1 with `a`, which is not 0."""
    return _EXP[255 - _LOG[a]]


def _coefficient(row: int, column: int) -> int:
    """Of symbol `column` in repair `row`."""
    y = MAX_REPAIRS + column
    return multiply(y, inverse(row ^ y))  # (x₀ ^ y) / (x_row ^ y) with x_row = row


_MATRIX = tuple(
    bytes(_coefficient(row, column) for column in range(MAX_SYMBOLS)) for row in range(MAX_REPAIRS)
)


@lru_cache(maxsize=64)
def _masks(size: int) -> tuple[int, int]:
    return int.from_bytes(b"\x7f" * size, "little"), int.from_bytes(b"\x01" * size, "little")


def _double(value: int, size: int) -> int:
    """Every byte of `value`, of at most `size` bytes, times x."""
    low, ones = _masks(size)
    return (value & low) << 1 ^ (value >> 7 & ones) * (_POLYNOMIAL & 0xFF)


def _sum_of_products(products: Iterable[tuple[int, int]], size: int) -> int:
    """Σ coefficient · symbol."""
    parts = [0] * 8
    for coefficient, symbol in products:
        while coefficient:
            lowest = coefficient & -coefficient
            parts[lowest.bit_length() - 1] ^= symbol
            coefficient ^= lowest
    result = 0
    for bit in _BITS:
        result = (_double(result, size) if result else 0) ^ parts[bit]
    return result


@lru_cache(maxsize=1024)
def _columns_by_bit(row: int, count: int) -> tuple[tuple[int, ...], ...]:
    """For each bit, highest first, the columns whose coefficient in `row` has it."""
    coefficients = _MATRIX[row][:count]
    return tuple(
        tuple(column for column, c in enumerate(coefficients) if c >> bit & 1) for bit in _BITS
    )


def encode(symbols: Sequence[int], repairs: int, size: int) -> list[int]:
    """The first `repairs` repair symbols of a group.

    Args:
        symbols: 1 to `MAX_SYMBOLS` non-negative integers below `256**size`.
        repairs: 0 to `MAX_REPAIRS`.
        size: bytes of the longest symbol.

    Raises:
        LocalProtocolError: too many symbols or repairs.
    """
    if not 0 < len(symbols) <= MAX_SYMBOLS or not 0 <= repairs <= MAX_REPAIRS:
        raise LocalProtocolError(f"no code for {len(symbols)} symbols and {repairs} repairs")
    encoded = []
    for row in range(repairs):
        result = 0
        for columns in _columns_by_bit(row, len(symbols)):
            if result:
                result = _double(result, size)
            for column in columns:
                result ^= symbols[column]
        encoded.append(result)
    return encoded


def recovery_work(missing: int, count: int) -> int:
    """What :func:`recover` has to do, in units of about a microsecond: a coefficient and a symbol
    each, and the doublings of two sums for each symbol that is missing."""
    return missing * (count + 16)


def recover(
    present: Mapping[int, int], repairs: Mapping[int, int], count: int, size: int
) -> dict[int, int]:
    """The missing symbols of a group of `count`.

    Args:
        present: the symbols that arrived, by column.
        repairs: repair symbols by row, at least as many as symbols are missing.
        count: how many symbols the group has.
        size: bytes of the longest symbol.

    Returns:
        Every missing symbol by column. They are right if all that was given is.

    Raises:
        LocalProtocolError: too few repairs, or a column or row out of range.
    """
    missing = [column for column in range(count) if column not in present]
    rows = sorted(repairs)[: len(missing)]
    if len(rows) < len(missing) or count > MAX_SYMBOLS or any(r >= MAX_REPAIRS for r in rows):
        raise LocalProtocolError(f"{len(missing)} of {count} missing, repairs {rows}")
    weights = _inverse(rows, missing)
    remainders = [
        repairs[row]
        ^ _sum_of_products(((_MATRIX[row][c], symbol) for c, symbol in present.items()), size)
        for row in rows
    ]
    return {
        column: _sum_of_products(zip(line, remainders, strict=True), size)
        for column, line in zip(missing, weights, strict=True)
    }


def _inverse(rows: Sequence[int], columns: Sequence[int]) -> list[list[int]]:
    """The inverse of as many rows as columns of the generator, a line for each column.

    In closed form, O(n²), of a Cauchy matrix 1 / (xᵢ + yⱼ) (S. Schechter, "On the Inversion of
    Certain Matrices", 1959), with the scale of its columns taken out again: line j has
    ∏ₖ(xₖ + yⱼ) · ∏ₖ(xᵢ + yₖ) / ((xᵢ + yⱼ) · yⱼ · ∏ₖ≠ᵢ(xᵢ + xₖ) · ∏ₖ≠ⱼ(yⱼ + yₖ)).
    """
    points = [MAX_REPAIRS + column for column in columns]
    of_points = [
        sum(_LOG[x ^ y] for x in rows) - sum(_LOG[y ^ z] for z in points if z != y) - _LOG[y]
        for y in points
    ]
    of_rows = [
        sum(_LOG[x ^ y] for y in points) - sum(_LOG[x ^ z] for z in rows if z != x) for x in rows
    ]
    return [
        [_EXP[(a + b - _LOG[x ^ y]) % 255] for x, b in zip(rows, of_rows, strict=True)]
        for y, a in zip(points, of_points, strict=True)
    ]
