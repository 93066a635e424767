"""How the original packs arguments into one value, and hands that to a method.

Protocol buffers are told by their methods, as there: they travel as bytes, and are read where an
annotation names their class.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

_IMMUTABLE = frozenset({type(None), bool, int, float, complex, str, bytes})


def taken(value: Any) -> Any:
    """An argument as it is now. Whoever changes it after the call, before the result is there,
    changes nothing of what is sent: that is made in another thread.

    A message is its bytes as soon as it is packed. What cannot be copied is left as it is: of most
    of that the encoder says why it cannot be sent.
    """
    if type(value) in _IMMUTABLE or hasattr(value, "SerializeToString"):
        return value
    if isinstance(value, memoryview):
        return value if type(value.obj) is bytes else memoryview(value.tobytes())
    try:
        return copy.deepcopy(value)
    except Exception:  # the types are the user's, as is what their copying does
        return value


def pack(function: Callable[..., Any] | None, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The value that is sent for a call.

    None without arguments, the argument itself if it is one, else a list, or a dict by name.
    Arguments of both kinds become one by the names that the caller's class knows; the original
    makes a dict of them that no method takes.

    Raises:
        TypeError: there are both kinds, and the method's parameters are not known or do not fit.
    """
    args, named = gather(function, args, named)
    if named:
        return {name: _sent(value) for name, value in named.items()}
    values = [_sent(value) for value in args]
    return None if not values else values[0] if len(values) == 1 else values


def gather(
    function: Callable[..., Any] | None, args: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, all by position or all by name. Raises as :func:`pack` does."""
    if named and args:
        if function is None:
            raise TypeError("arguments by position and by name: the method's class is not known")
        named = inspect.signature(function).bind(None, *args, **named).arguments
        named.pop(next(iter(named)))
        args = ()
    return args, named


def invoke(method: Callable[..., Any], payload: Any) -> Any:
    """Call a bound method with what :func:`pack` has made.

    A method without parameters gets nothing, one with a single parameter the value, others what is
    in it: a dict by name, a list or tuple by position.
    """
    parameters, classes = _signature(_function_of(method))
    if not parameters:
        return method()
    if len(parameters) == 1:
        (name,) = parameters
        if isinstance(payload, dict) and [*payload] == [name] and classes.get(name) is None:
            return method(**payload)  # one argument, given by its name
        if payload is None and parameters[name].default is not inspect.Parameter.empty:
            return method()
        return method(received(payload, classes.get(name)))
    if isinstance(payload, dict):
        return method(**{name: received(v, classes.get(name)) for name, v in payload.items()})
    if payload is None:
        return method()
    values = payload if isinstance(payload, (list, tuple)) else [payload]
    names = [*parameters, *[""] * len(values)]
    return method(*(received(v, classes.get(n)) for v, n in zip(values, names, strict=False)))


def received(value: Any, message_class: type | None) -> Any:
    """A value as its annotation has it: a message from its bytes, or from a dict of its fields."""
    if message_class is None:
        return bytes(value) if isinstance(value, memoryview) else value
    if value is None or isinstance(value, (bytes, bytearray, memoryview)):
        # An empty message is none on the wire of the original.
        message = message_class()
        message.ParseFromString(b"" if value is None else value)
        return message
    if isinstance(value, Mapping):
        message = message_class()
        for name, field in value.items():
            _set_field(message, name, field)
        return message
    return value


def result_class(function: Callable[..., Any] | None) -> type | None:
    """The message that a method is annotated to return, if it is one."""
    return None if function is None else _signature(function)[1].get("return")


def single_message(method: Callable[..., Any]) -> type | None:
    """The message class of a bound method's only parameter, if it is one."""
    parameters, classes = _signature(_function_of(method))
    return classes.get(next(iter(parameters))) if len(parameters) == 1 else None


def sent_result(value: Any) -> Any:
    """A handler's result as it travels."""
    return _sent(value)


def _sent(value: Any) -> Any:
    """Messages as their bytes."""
    if hasattr(value, "SerializeToString"):
        return bytes(value.SerializeToString())
    return value


def _set_field(message: Any, name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        field = getattr(message, name)
        if hasattr(field, "ParseFromString"):
            for inner, inner_value in value.items():
                _set_field(field, inner, inner_value)
        else:
            field.update(value)
    elif isinstance(value, (list, tuple)):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)


def _function_of(method: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(method, "__func__", method)


@lru_cache(maxsize=1024)
def _signature(
    function: Callable[..., Any],
) -> tuple[dict[str, inspect.Parameter], dict[str, type]]:
    """The parameters but `self`, and the message classes by parameter, "return" included."""
    parameters = dict([*inspect.signature(function).parameters.items()][1:])
    try:
        hints = get_type_hints(function)
    except Exception:  # annotations are the user's, and may name what is not there
        hints = {}
    classes = {name: found for name, hint in hints.items() if (found := _message_class(hint))}
    return parameters, classes


def _message_class(hint: Any) -> type | None:
    if get_origin(hint) in (Union, types.UnionType):
        return next((found for each in get_args(hint) if (found := _message_class(each))), None)
    is_message = isinstance(hint, type) and hasattr(hint, "ParseFromString")
    return hint if is_message else None
