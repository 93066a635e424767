"""What a value must be by its annotation. Checked in C where that can be: types, not items one by
one.

As far as an annotation can be understood: `Any`, type variables, protocols and whatever is unknown
accept everything.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, TypeAlias

from lattica.rpc.encoding.arrays import RefusedValueError

Checker: TypeAlias = Callable[[Any], Any]
"""Returns the value, perhaps in a better form; raises RefusedValueError."""

_SEQUENCES = (list, collections.abc.Sequence, collections.abc.MutableSequence)
_ITERABLES = (collections.abc.Iterable, collections.abc.Collection)
_SETS = (set, collections.abc.Set, collections.abc.MutableSet)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def accepted_types(annotation: Any) -> frozenset[type] | None:
    """The exact types of which every value is right as it is; None: values must be looked at."""
    if annotation is None or annotation is type(None):
        return frozenset({type(None)})
    if annotation is float:
        return frozenset({float, int})
    if annotation in (int, str, bool, bytes, bytearray, memoryview, complex):
        return frozenset({annotation, bool} if annotation is int else {annotation})
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [accepted_types(each) for each in typing.get_args(annotation)]
        known = [each for each in members if each is not None]
        if len(known) == len(members):
            return frozenset().union(*known)
    return None


def checker_of(annotation: Any) -> Checker | None:
    """What checks values of an annotation; None where everything is right."""
    if annotation is Any:
        return None
    exact = accepted_types(annotation)
    if exact is not None:
        return _exact_checker(annotation, exact)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return checker_of(arguments[0])
    if origin is typing.Literal:
        return _literal_checker(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union_checker(annotation, arguments)
    kind = origin or annotation
    if kind in _SEQUENCES:
        return _items_checker(annotation, (list, tuple), arguments[:1])
    if kind in _ITERABLES:
        return _items_checker(annotation, (list, tuple, set, frozenset, dict), ())
    if kind in _SETS or kind is frozenset:
        wanted = (frozenset,) if kind is frozenset else (set, frozenset)
        return _items_checker(annotation, wanted, arguments[:1])
    if kind in _MAPPINGS:
        return _mapping_checker(annotation, arguments)
    if kind is tuple:
        return _tuple_checker(annotation, arguments)
    if isinstance(kind, type) and kind is not object and not _is_loose(kind):
        return _instance_checker(kind)
    return None


def _is_loose(kind: type) -> bool:
    """A protocol or an abstract class says nothing that can be checked."""
    return bool(getattr(kind, "_is_protocol", False)) or (
        bool(getattr(kind, "__abstractmethods__", None)) and not dataclasses.is_dataclass(kind)
    )


def _refuse(annotation: Any, value: object) -> RefusedValueError:
    return RefusedValueError(f"expected {_name(annotation)}, not {type(value).__name__}")


def _name(annotation: Any) -> str:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _exact_checker(annotation: Any, exact: frozenset[type]) -> Checker:
    views = bytes in exact

    def check(value: Any) -> Any:
        if type(value) in exact:
            return value
        if views and type(value) in (bytearray, memoryview):
            return bytes(value)
        raise _refuse(annotation, value)

    return check


def _literal_checker(choices: tuple[Any, ...]) -> Checker:
    allowed = [(type(choice), choice) for choice in choices]

    def check(value: Any) -> Any:
        if (type(value), value) in allowed:
            return value
        raise RefusedValueError(f"expected one of {', '.join(map(repr, choices))}")

    return check


def _union_checker(annotation: Any, members: tuple[Any, ...]) -> Checker | None:
    checkers = [checker_of(member) for member in members]
    if any(check is None for check in checkers):
        return None
    known = [check for check in checkers if check is not None]

    def check(value: Any) -> Any:
        for each in known:
            try:
                return each(value)
            except RefusedValueError:
                continue
        raise _refuse(annotation, value)

    return check


def _items_checker(annotation: Any, kinds: tuple[type, ...], items: tuple[Any, ...]) -> Checker:
    item_types = accepted_types(items[0]) if items else None
    check_item = checker_of(items[0]) if items else None

    def check(value: Any) -> Any:
        if type(value) not in kinds:
            raise _refuse(annotation, value)
        if check_item is None or (
            item_types is not None and item_types.issuperset(map(type, value))
        ):
            return value
        return type(value)([check_item(item) for item in value])

    return check


def _mapping_checker(annotation: Any, arguments: tuple[Any, ...]) -> Checker:
    check_key, check_item = (checker_of(each) for each in arguments or (Any, Any))
    exact = [accepted_types(each) for each in arguments or (Any, Any)]
    keys, items = (each if each is not None else frozenset[type]() for each in exact)

    def check(value: Any) -> Any:
        if type(value) is not dict:
            raise _refuse(annotation, value)
        if check_key is not None and not keys.issuperset(map(type, value)):
            value = {check_key(key): item for key, item in value.items()}
        if check_item is not None and not items.issuperset(map(type, value.values())):
            value = {key: check_item(item) for key, item in value.items()}
        return value

    return check


def _tuple_checker(annotation: Any, arguments: tuple[Any, ...]) -> Checker:
    if not arguments or arguments[-1] is Ellipsis:
        return _items_checker(annotation, (tuple,), arguments[:1])
    checkers = [checker_of(each) for each in arguments]

    def check(value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(checkers):
            raise _refuse(annotation, value)
        return tuple(
            item if each is None else each(item) for each, item in zip(checkers, value, strict=True)
        )

    return check


def _instance_checker(kind: type) -> Checker:
    def check(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        raise _refuse(kind, value)

    return check
