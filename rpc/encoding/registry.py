"""The types that a receiver knows by name: what annotations mention, and what was registered."""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

from lattica.nat.base.checks import check_type
from lattica.nat.base.errors import LocalProtocolError

T = TypeVar("T", bound=type)


def is_protobuf(kind: object) -> TypeGuard[type[Any]]:
    """Whether it is a class of protobuf messages (by its looks: protobuf need not be loaded)."""
    return isinstance(kind, type) and all(
        hasattr(kind, name) for name in ("DESCRIPTOR", "SerializeToString", "FromString")
    )


def is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def is_struct(kind: type) -> bool:
    """Whether values of the class travel as their fields."""
    return dataclasses.is_dataclass(kind) or is_named_tuple(kind)


def default_name(kind: type) -> str:
    """What a type is called on the wire unless it was registered under another name."""
    if is_protobuf(kind):
        return str(kind.DESCRIPTOR.full_name)
    return kind.__name__


class TypeRegistry:
    """Dataclasses, named tuples, enums and protobuf messages by their name on the wire.

    A value of a type that is not here is refused when it arrives: nothing is ever imported for it.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, type] = {}
        self._names: dict[type, str] = {}
        self._seen: set[int] = set()
        self._kept: list[object] = []
        self.version = 0
        """Grows with each type: for those who remember what they found."""

    def find(self, name: str) -> type | None:
        """The type of that name."""
        return self._by_name.get(name)

    def name_of(self, kind: type) -> str:
        """What the type is called on the wire."""
        return self._names.get(kind) or default_name(kind)

    def register(self, kind: type, name: str | None = None) -> None:
        """Know a type, and those that its fields mention. Again, under the same name: nothing.

        Raises:
            LocalProtocolError: another type has that name, or it is none that can travel.
        """
        check_type("kind", kind, type, "a class")
        if not (is_struct(kind) or is_protobuf(kind) or issubclass(kind, enum.Enum)):
            raise LocalProtocolError(
                f"{kind.__name__} is no dataclass, named tuple, enum or protobuf message"
            )
        name = name or self.name_of(kind)
        other = self._by_name.get(name, kind)
        if other is not kind:
            raise LocalProtocolError(
                f"two types are called {name!r}: {other.__module__}.{other.__qualname__} and "
                f"{kind.__module__}.{kind.__qualname__}; register one under another name"
            )
        if self._names.get(kind, name) != name:
            raise LocalProtocolError(f"{kind.__name__} is registered as {self._names[kind]!r}")
        if kind in self._names:
            return
        self._by_name[name] = kind
        self._names[kind] = name
        self.version += 1
        if is_struct(kind):
            for annotation in hints_of(kind).values():
                self.register_annotation(annotation)

    def register_annotation(self, annotation: Any) -> None:
        """Know every type that an annotation mentions."""
        if id(annotation) in self._seen:
            return
        self._seen.add(id(annotation))
        self._kept.append(annotation)  # so that its id stays its own
        if isinstance(annotation, type) and not typing.get_args(annotation):
            is_enum = issubclass(annotation, enum.Enum) and annotation is not enum.Enum
            if is_enum or is_struct(annotation) or is_protobuf(annotation):
                self.register(annotation)
            return
        for argument in typing.get_args(annotation):
            if isinstance(argument, list):  # of a Callable; no value of it can travel
                continue
            self.register_annotation(argument)
        origin = typing.get_origin(annotation)
        if isinstance(origin, type) and dataclasses.is_dataclass(origin):
            self.register(origin)


def hints_of(owner: Callable[..., Any] | type) -> dict[str, Any]:
    """The annotations of a class or function, resolved; those that cannot be are `Any`."""
    try:
        return typing.get_type_hints(owner)
    except Exception:
        # A name that exists for type checkers only, or locally; whatever is there still counts.
        found: dict[str, Any] = {}
        for name, annotation in getattr(owner, "__annotations__", {}).items():
            found[name] = Any if isinstance(annotation, str) else annotation
        return found
