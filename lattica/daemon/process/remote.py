"""Objects of the facades that are in the node's process, as the program has them.

For each class of the facades there is one here that looks the same, and whose public methods and
properties are called there: :func:`remote_class` makes it by looking at the class, so nothing that
is added to one is missing at the other.
"""

from __future__ import annotations

import functools
import inspect
import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from lattica.daemon.errors import CannotCrossError, ProcessEndedError
from lattica.daemon.process.values import Callback, SharedState
from lattica.facades.threads.bridge import Bridge
from lattica.nat.base.errors import LocalProtocolError

if TYPE_CHECKING:
    from lattica.daemon.process.program import ProcessNode

_FACADES: Final = "lattica.facades."
_HERE: Final = frozenset(
    {
        "__init__", "__init_subclass__", "__repr__", "__next__", "receive",
        "__enter__", "__exit__", "__aenter__", "__aexit__",
    }
)  # fmt: skip
"""What is done here, by calling other things there, or none."""
_ENDINGS: Final = frozenset({"close", "leave"})
"""They do nothing once the node has been closed or its process has ended: so has what they end."""
_STATES: Final = {"push": True, "publish_state_dict": True, "load_state_dict": False}
"""Methods with a state dict; those with True read it, the others fill it."""
_TOLD: Final = frozenset({"progress", "on_event"})
"""Functions that are told something."""
_WAITED_FOR: Final = frozenset({"on_version"})
"""Functions that a thread of the node's process waits for."""
_PATHS: Final = frozenset({"path", "out_dir", "directory"})
_IMPOSSIBLE: Final = frozenset({"source", "validator", "authorize"})
"""Functions that the node's own thread would have to wait for."""


class Caller(Protocol):
    """What stands for an object in the node's process, by its number there."""

    @property
    def _bridge(self) -> Bridge[Any]: ...

    @property
    def _program(self) -> ProcessNode: ...

    @property
    def _number(self) -> int: ...


class Remote:
    """Base of these classes. For any number of threads, as the objects themselves."""

    _bridge: Bridge[Any]
    _program: ProcessNode
    _number: int
    _returned: deque[Any]

    def __getattr__(self, name: str) -> Any:
        # What the object was given when it was made, and keeps.
        if name.startswith("_"):
            raise AttributeError(name)
        value = call(self, ".get", (name,), {})
        self.__dict__[name] = value
        return value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._number} in the process of {self._bridge.name}>"

    def _next(self, timeout: float | None) -> Any:
        try:
            return self._returned.popleft()
        except IndexError:
            return call(self, "_next", (timeout,), {}, give_back=self._returned.append)


def call(
    caller: Caller,
    name: str,
    args: tuple[Any, ...],
    keywords: dict[str, Any],
    give_back: Callable[[Any], object] | None = None,
) -> Any:
    """Call a method of the object that `caller` stands for; block until it is done.

    Raises what that raises, and CannotCrossError for arguments that are no data.
    """
    program, number = caller._program, caller._number

    async def request() -> tuple[bool, Any]:
        return await program.request("call", number, name, args, keywords)

    give = None
    if give_back is not None:

        def give(result: tuple[bool, Any]) -> None:
            if result[0]:
                give_back(result[1])

    return _value(caller._bridge.call(request, give_back=give))


def _value(result: tuple[bool, Any]) -> Any:
    """What came of a request. Raises the error, if it was not done."""
    is_done, value = result
    if not is_done:
        raise value
    return value


def call_method(
    caller: Caller, method: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]
) -> Any:
    """:func:`call`, where arguments may be functions or state dicts."""
    bound = _signature(method).bind(None, *args, **keywords)
    given = bound.arguments
    name, program = method.__name__, caller._program
    reads = _STATES.get(name)
    state: SharedState | None = None
    callbacks: list[int] = []
    report: str | None = None
    for parameter, value in given.items():
        if reads is not None and parameter == "state":
            if not isinstance(value, Mapping):
                raise LocalProtocolError(f"a state dict is a mapping, not {type(value).__name__}")
            state = SharedState(value, copies=reads)
            given[parameter] = state
        elif parameter in _PATHS and program.has_moved():
            given[parameter] = os.path.abspath(value)
        elif not callable(value) or isinstance(value, type):
            continue
        elif parameter in _IMPOSSIBLE:
            raise CannotCrossError(
                f"{name}({parameter}=…) is a function whose answer the node waits for, and with "
                "process=True the node is in another process; use a Lattica() without it"
            )
        elif parameter in _TOLD | _WAITED_FOR:
            callback = Callback(program.new_number(), parameter in _WAITED_FOR)
            callbacks.append(callback.number)
            program.callbacks[callback.number] = value
            given[parameter] = callback
            report = parameter if parameter == "progress" else report
    try:
        values = bound.args[1:], bound.kwargs
        if report is None:
            result = call(caller, name, *values)
        else:
            result = _call_reporting(caller, name, *values, callbacks[0])
        if state is not None and not reads:
            state.load(getattr(result, "missing", ()))
        if isinstance(result, Remote) and callbacks:
            weakref.finalize(result, _forget, program, tuple(callbacks)).atexit = False
        else:
            _forget(program, tuple(callbacks))
        return result
    except BaseException:
        _forget(program, tuple(callbacks))
        raise
    finally:
        if state is not None:
            state.close()


@functools.cache
def _signature(method: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(method)


def _call_reporting(
    caller: Caller, name: str, args: tuple[Any, ...], keywords: dict[str, Any], callback: int
) -> Any:
    """The function of that number is called in the calling thread, as the facades have it."""
    program, number = caller._program, caller._number
    on_event = program.callbacks[callback]

    async def request(report: Callable[[Any], None]) -> tuple[bool, Any]:
        program.callbacks[callback] = report
        return await program.request("call", number, name, args, keywords)

    return _value(caller._bridge.call_reporting(request, on_event))


def _forget(program: ProcessNode, callbacks: tuple[int, ...]) -> None:
    for number in callbacks:
        program.callbacks.pop(number, None)


def is_remote(kind: type) -> bool:
    """Whether objects of this class stay where they are, and are called from afar."""
    return kind.__module__.startswith(_FACADES)


def made(bridge: Bridge[Any], program: ProcessNode, number: int, kind: type) -> object:
    """What stands in for an object of the facades, by its number there and its class."""
    found: Any = object.__new__(remote_class(kind))
    found._bridge, found._program, found._number = bridge, program, number
    found._returned = deque()
    weakref.finalize(found, bridge.soon, program.post, "drop", number).atexit = False
    return found


@functools.cache
def remote_class(kind: type) -> type:
    """A subclass of `kind` whose public methods and properties are those of the other process."""
    names = {
        name: member
        for each in reversed(kind.__mro__)
        if each.__module__.startswith(_FACADES)
        for name, member in vars(each).items()
    }
    iterates = hasattr(kind, "__next__")
    members: dict[str, Any] = {}
    for name, member in names.items():
        is_special = name.startswith("__") and name.endswith("__")
        if name in _HERE or (name.startswith("_") and not is_special):
            continue
        if isinstance(member, property):
            members[name] = remote_property(name, member)
        elif inspect.isfunction(member) and not (name == "__iter__" and iterates):
            members[name] = _iterated if name == "__iter__" else remote_method(member)
    made: type = type(kind.__name__, (Remote, kind), members)
    made.__module__ = kind.__module__
    made.__doc__ = kind.__doc__
    return made


def remote_method(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that is called in the other process."""
    name = method.__name__

    @functools.wraps(method)
    def called(self: Any, *args: Any, **keywords: Any) -> Any:
        try:
            return call_method(self, method, args, keywords)
        except ProcessEndedError:
            if name in _ENDINGS:
                return None
            raise
        except LocalProtocolError:
            if name in _ENDINGS and self._bridge.closing:
                return None
            raise

    return called


def remote_property(name: str, of: property) -> property:
    """A property that is asked of the other process."""

    def get(self: Any) -> Any:
        return call(self, ".get", (name,), {})

    def set_(self: Any, value: Any) -> None:
        call(self, ".set", (name, value), {})

    return property(get, set_ if of.fset is not None else None, doc=of.__doc__)


def _iterated(self: Any) -> Any:
    return iter(call(self, "__iter__", (), {}))
