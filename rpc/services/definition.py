"""Services: plain annotated classes, and what can be told of their methods from that."""

from __future__ import annotations

import collections.abc
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Final, TypeVar

from lattica.nat.base.checks import check_type
from lattica.nat.base.errors import LocalProtocolError
from lattica.rpc.encoding.annotations import Checker, accepted_types, checker_of
from lattica.rpc.encoding.arrays import RefusedValueError
from lattica.rpc.encoding.registry import TypeRegistry, hints_of
from lattica.rpc.services.context import CallContext

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

_ASYNC_STREAMS: Final = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
_STREAMS: Final = (*_ASYNC_STREAMS, collections.abc.Iterator, collections.abc.Generator)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}")
_MARK: Final = "__lattica_method__"
_SERVICE: Final = "__lattica_service__"


class Kind(IntEnum):
    """Which sides of a call are streams."""

    UNARY = 0
    CLIENT_STREAM = 1
    SERVER_STREAM = 2
    BIDIRECTIONAL = 3

    @property
    def streams_request(self) -> bool:
        return bool(self & 1)

    @property
    def streams_response(self) -> bool:
        return bool(self & 2)


@dataclass(frozen=True, slots=True)
class MethodMarks:
    """What :func:`method` says."""

    name: str | None = None
    idempotent: bool = False
    inline: bool = False
    kind: Kind | None = None


def method(
    *,
    name: str | None = None,
    idempotent: bool = False,
    inline: bool = False,
    kind: Kind | None = None,
) -> Callable[[F], F]:
    """Say of a method what its annotations do not.

    Args:
        name: what it is called on the wire; by default what it is called here.
        idempotent: to run it twice does no more than to run it once, so that a call which may have
            run may be tried again.
        inline: run it in the node's own thread although it is not async: it must return at once.
        kind: which sides are streams, where the annotations do not tell.
    """

    def mark(function: F) -> F:
        setattr(function, _MARK, MethodMarks(name, idempotent, inline, kind))
        return function

    return mark


def service(*, name: str | None = None, version: int = 1) -> Callable[[C], C]:
    """Say what a class is called on the wire (by default as here), and which version it is.

    Versions are services of their own: a node may serve several of them.
    """

    def mark(kind: C) -> C:
        setattr(kind, _SERVICE, service_name(name or kind.__name__, version))
        return kind

    return mark


def service_name(name: str, version: int = 1) -> str:
    """The name of a version of a service on the wire. Raises LocalProtocolError."""
    if not _NAME.fullmatch(name) or version < 1:
        raise LocalProtocolError(f"a service cannot be called {name!r}, version {version}")
    return name if version == 1 else f"{name}/{version}"


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a service, read off its annotations."""

    name: str
    attribute: str
    full_name: str
    """As it is on the wire: `Service.method`."""
    kind: Kind
    idempotent: bool
    inline: bool
    is_async: bool
    parameters: tuple[inspect.Parameter, ...]
    """Those whose values travel: without self, the context and the stream of requests."""
    context_parameter: str | None
    stream_parameter: str | None
    request_stream_is_async: bool
    is_positional: bool
    """Whether the travelling parameters come first, so that a list of values may be passed on."""
    required: int
    """How many arguments must be given, of those that may be given by position."""
    most: int
    """How many arguments may be given by position."""
    argument_checks: tuple[tuple[frozenset[type], Checker] | None, ...]
    """For each parameter the types that are right as they are, and what looks at the others."""
    named_checks: Mapping[str, tuple[frozenset[type], Checker]]
    """The same by name."""
    check_item: Checker | None
    """For the items of the stream of requests."""
    check_result: Checker | None
    """For the result, or the items of the stream of results."""

    def check_arguments(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Hold arguments to the annotations; some are replaced by a better form.

        Raises:
            RefusedValueError: with the name of the argument.
        """
        if kwargs or not self.required <= len(args) <= self.most:
            self._bind(args, kwargs)
        for index, check in enumerate(self.argument_checks):
            if check is None or index >= len(args):
                continue
            if type(args[index]) not in check[0]:
                args[index] = self._checked(check[1], self.parameters[index].name, args[index])
        for name in kwargs:
            check = self.named_checks.get(name)
            if check is not None and type(kwargs[name]) not in check[0]:
                kwargs[name] = self._checked(check[1], name, kwargs[name])

    def _checked(self, check: Checker, name: str, value: Any) -> Any:
        try:
            return check(value)
        except RefusedValueError as error:
            raise RefusedValueError(f"argument {name}: {error}") from None

    def _bind(self, args: list[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            inspect.Signature(self.parameters).bind(*args, **kwargs)
        except TypeError as error:
            raise RefusedValueError(f"{self.full_name}: {error}") from None

    def split(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any], Any]:
        """A caller's arguments: those that travel, and the iterator of a stream of requests.

        Raises:
            TypeError: as a call of the method itself would.
        """
        if self.stream_parameter is None and not kwargs and self.required <= len(args) <= self.most:
            return [*args], kwargs, None
        bound = self._caller_signature().bind(*args, **kwargs)
        stream = None
        if self.stream_parameter is not None:
            stream = bound.arguments.pop(self.stream_parameter)
        travelling = inspect.BoundArguments(inspect.Signature(self.parameters), bound.arguments)
        return [*travelling.args], travelling.kwargs, stream

    def implemented_by(self, other: Method) -> Method:
        """This method of an interface, run as its implementation says."""
        return replace(
            self,
            is_async=other.is_async,
            inline=other.inline,
            context_parameter=other.context_parameter,
            stream_parameter=other.stream_parameter,
            request_stream_is_async=other.request_stream_is_async,
            is_positional=other.is_positional,
        )

    def _caller_signature(self) -> inspect.Signature:
        parameters = [*self.parameters]
        if self.stream_parameter is not None:
            stream = inspect.Parameter(
                self.stream_parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD
            )
            index = self.stream_index
            # What has no default may not follow what has one.
            before = parameters[:index]
            if any(each.default is not inspect.Parameter.empty for each in before):
                stream = stream.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                index = len(parameters)
                while index and parameters[index - 1].kind is inspect.Parameter.VAR_KEYWORD:
                    index -= 1
            parameters.insert(index, stream)
        return inspect.Signature(parameters)

    stream_index: int = 0
    """Where among the travelling parameters the stream of requests is given."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service: its name on the wire, and its methods by theirs."""

    name: str
    methods: Mapping[str, Method] = field(default_factory=dict)


def define(kind: type, types: TypeRegistry, name: str | None = None) -> Service:
    """Read a service off a class; the types that it mentions become known to `types`.

    Its methods are its public functions and those that it inherits.

    Raises:
        LocalProtocolError: it has no methods, one of them cannot be called from afar, or two
            types have one name.
    """
    check_type("service", kind, type, "a class")
    check_type("name", name or "", str, "a text")
    called = name or kind.__dict__.get(_SERVICE) or service_name(kind.__name__)
    methods: dict[str, Method] = {}
    for attribute, function in _functions(kind):
        found = define_method(called, attribute, function, types)
        if found.name in methods:
            raise LocalProtocolError(f"{called} has two methods called {found.name!r}")
        methods[found.name] = found
    if not methods:
        raise LocalProtocolError(f"{kind.__name__} has no public methods, so it is no service")
    return Service(called, methods)


def as_class(service: object) -> type:
    """Raises LocalProtocolError for what is no class."""
    if not isinstance(service, type):
        raise LocalProtocolError(f"a service is named by its class, not by {service!r:.100}")
    return service


def _functions(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    names = dict.fromkeys(
        name for base in reversed(kind.__mro__) if base is not object for name in vars(base)
    )
    for name in names:
        found = inspect.getattr_static(kind, name)
        if not name.startswith("_") and inspect.isfunction(found):
            yield name, found


def _stream_item(annotation: Any) -> tuple[bool, Any] | None:
    """Of the annotation of a stream: whether it is async, and of its items; None for others."""
    origin = typing.get_origin(annotation) or annotation
    if origin not in _STREAMS:
        return None
    arguments = typing.get_args(annotation)
    return origin in _ASYNC_STREAMS, arguments[0] if arguments else Any


def define_method(
    called: str, attribute: str, function: Callable[..., Any], types: TypeRegistry
) -> Method:
    """Read a method off a function; see :func:`define`."""
    marks: MethodMarks = getattr(function, _MARK, MethodMarks())
    name = marks.name or attribute
    if not _NAME.fullmatch(name) or "." in name:
        raise LocalProtocolError(f"a method cannot be called {name!r}")
    hints = hints_of(function)
    parameters = [*inspect.signature(function).parameters.values()][1:]
    travelling: list[inspect.Parameter] = []
    context_parameter = stream_parameter = None
    stream_is_async, stream_index = True, 0
    check_item: Checker | None = None
    plain = True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    for parameter in parameters:
        annotation = hints.get(parameter.name, Any)
        stream = _stream_item(annotation)
        if annotation is CallContext:
            context_parameter = parameter.name
        elif stream is not None:
            if stream_parameter is not None:
                raise LocalProtocolError(f"{called}.{name} takes more than one stream")
            stream_parameter, stream_index = parameter.name, len(travelling)
            stream_is_async = stream[0]
            check_item = checker_of(stream[1])
            types.register_annotation(stream[1])
        else:
            has_before = context_parameter is not None or stream_parameter is not None
            if has_before and parameter.kind in positional:
                plain = False
            travelling.append(parameter)
            types.register_annotation(annotation)
    result = hints.get("return", Any)
    response = _stream_item(result)
    streams_response = response is not None or inspect.isasyncgenfunction(function)
    streams_response = streams_response or inspect.isgeneratorfunction(function)
    item = response[1] if response is not None else Any if streams_response else result
    types.register_annotation(item)
    kind = Kind(2 * streams_response + (stream_parameter is not None))
    if marks.kind is not None and marks.kind is not kind:
        if marks.kind.streams_request != kind.streams_request:
            raise LocalProtocolError(
                f"{called}.{name} streams its requests by the annotation of a parameter"
            )
        kind, item = marks.kind, Any
    by_position = [each for each in travelling if each.kind in positional]
    variable_kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    variable = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in travelling)
    keyword_only = any(
        each.kind is inspect.Parameter.KEYWORD_ONLY and each.default is inspect.Parameter.empty
        for each in travelling
    )
    required = sum(each.default is inspect.Parameter.empty for each in by_position)
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    is_async = is_async or (response is not None and response[0])
    return Method(
        name=name,
        attribute=attribute,
        full_name=f"{called}.{name}",
        kind=kind,
        idempotent=marks.idempotent,
        inline=marks.inline,
        is_async=is_async,
        parameters=tuple(travelling),
        context_parameter=context_parameter,
        stream_parameter=stream_parameter,
        request_stream_is_async=stream_is_async,
        is_positional=plain,
        # A keyword that must be given sends every call through the full check.
        required=1 << 30 if keyword_only else required,
        most=1 << 30 if variable else len(by_position),
        argument_checks=tuple(_check(each, hints.get(each.name, Any)) for each in by_position),
        named_checks={
            each.name: check
            for each in travelling
            if each.kind not in variable_kinds
            and (check := _check(each, hints.get(each.name, Any))) is not None
        },
        check_item=check_item,
        check_result=checker_of(item),
        stream_index=stream_index,
    )


def _check(parameter: inspect.Parameter, annotation: Any) -> tuple[frozenset[type], Checker] | None:
    checker = checker_of(annotation)
    if checker is None:
        return None
    right = accepted_types(annotation) or frozenset()
    if parameter.default is None and right:
        right = right | {type(None)}
    default = parameter.default

    def check(value: Any) -> Any:
        return value if value is None and default is None else checker(value)

    return right, check
