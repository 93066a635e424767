"""The types of tensors in GGUF files: how many elements are a block, and its bytes. Pure.

Source: `ggml_type` and `type_traits` of https://github.com/ggml-org/ggml.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_SIZE = (1 << 63) - 1
"""ggml's numbers are signed."""


@dataclass(frozen=True, slots=True)
class GgmlType:
    """One type: its number in files, elements a block, and bytes a block."""

    code: int
    elements: int
    size: int


GGML_TYPES = {
    "F32": GgmlType(0, 1, 4),
    "F16": GgmlType(1, 1, 2),
    "Q4_0": GgmlType(2, 32, 18),
    "Q4_1": GgmlType(3, 32, 20),
    "Q5_0": GgmlType(6, 32, 22),
    "Q5_1": GgmlType(7, 32, 24),
    "Q8_0": GgmlType(8, 32, 34),
    "Q8_1": GgmlType(9, 32, 40),
    "Q2_K": GgmlType(10, 256, 84),
    "Q3_K": GgmlType(11, 256, 110),
    "Q4_K": GgmlType(12, 256, 144),
    "Q5_K": GgmlType(13, 256, 176),
    "Q6_K": GgmlType(14, 256, 210),
    "Q8_K": GgmlType(15, 256, 292),
    "IQ2_XXS": GgmlType(16, 256, 66),
    "IQ2_XS": GgmlType(17, 256, 74),
    "IQ3_XXS": GgmlType(18, 256, 98),
    "IQ1_S": GgmlType(19, 256, 50),
    "IQ4_NL": GgmlType(20, 32, 18),
    "IQ3_S": GgmlType(21, 256, 110),
    "IQ2_S": GgmlType(22, 256, 82),
    "IQ4_XS": GgmlType(23, 256, 136),
    "I8": GgmlType(24, 1, 1),
    "I16": GgmlType(25, 1, 2),
    "I32": GgmlType(26, 1, 4),
    "I64": GgmlType(27, 1, 8),
    "F64": GgmlType(28, 1, 8),
    "IQ1_M": GgmlType(29, 256, 56),
    "BF16": GgmlType(30, 1, 2),
    "TQ1_0": GgmlType(34, 256, 54),
    "TQ2_0": GgmlType(35, 256, 66),
    "MXFP4": GgmlType(39, 32, 17),
    "NVFP4": GgmlType(40, 64, 36),
    "Q1_0": GgmlType(41, 128, 18),
}
NAME_OF = {kind.code: name for name, kind in GGML_TYPES.items()}


def block_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor, of which each row is whole blocks; raises :class:`ValueError`."""
    kind = GGML_TYPES.get(dtype)
    if kind is None:
        raise ValueError(f"unknown type {dtype[:40]!r}")
    if (shape[-1] if shape else 1) % kind.elements:
        raise ValueError(f"a row is not a whole number of blocks of {dtype}")
    elements = math.prod(shape)
    size = elements // kind.elements * kind.size
    if max(elements, size) > MAX_SIZE:
        raise ValueError("a tensor's size does not fit in 63 bits")
    return size
