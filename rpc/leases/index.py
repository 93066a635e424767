"""Which part of a lent buffer is read: slices and integers, as NumPy's basic indexing has them."""

from __future__ import annotations

from types import EllipsisType
from typing import Any, Final, TypeAlias

from lattica.rpc.errors import InvalidArgumentError, OutOfRangeError

Step: TypeAlias = int | slice | EllipsisType
Index: TypeAlias = Step | tuple[Step, ...]

_MOST_STEPS: Final = 64
_ELLIPSIS: Final = "..."


def encode_index(index: Index) -> list[Any]:
    """As it travels: each step a number, [start, stop, step], or "...".

    Raises TypeError.
    """
    steps = index if isinstance(index, tuple) else (index,)
    return [_encode_step(each) for each in steps]


def _encode_step(step: Any) -> Any:
    if step is Ellipsis:
        return _ELLIPSIS
    if isinstance(step, slice):
        return [
            None if each is None else _number(each) for each in (step.start, step.stop, step.step)
        ]
    return _number(step)


def _number(value: Any) -> int:
    try:
        return int(value.__index__())
    except AttributeError:
        raise TypeError(
            f"a lent buffer is read by numbers, slices and ..., not {type(value).__name__}"
        ) from None


def decode_index(steps: list[Any]) -> tuple[Step, ...]:
    """Raises InvalidArgumentError."""
    if len(steps) > _MOST_STEPS:
        raise InvalidArgumentError(f"an index of {len(steps)} parts", may_have_run=False)
    return tuple(_decode_step(each) for each in steps)


def _decode_step(step: Any) -> Step:
    if step == _ELLIPSIS:
        return Ellipsis
    if type(step) is int:
        return step
    if (
        type(step) is list
        and len(step) == 3
        and all(each is None or type(each) is int for each in step)
    ):
        return slice(*step)
    raise InvalidArgumentError("an index has numbers, slices and ...", may_have_run=False)


def part_of(value: Any, index: tuple[Step, ...]) -> Any:
    """That part of an array, tensor or memory. Raises OutOfRangeError, InvalidArgumentError."""
    if isinstance(value, memoryview):
        if index == (Ellipsis,):
            return value
        if len(index) != 1 or not isinstance(index[0], slice):
            raise InvalidArgumentError("bytes are read by one slice", may_have_run=False)
        index = (index[0],)
    try:
        return value[index[0] if isinstance(value, memoryview) else index]
    except IndexError as error:
        raise OutOfRangeError(str(error)[:300]) from None
    except (ValueError, TypeError) as error:
        raise InvalidArgumentError(str(error)[:300]) from None
