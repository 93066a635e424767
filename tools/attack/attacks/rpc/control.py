"""Calls over the control plane: without end, hanging, cancelled, with much beside them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import count

import msgpack

from lattica.nat.mux.connection import Connection
from lattica.rpc.protocol.frames import MAX_METADATA, Kind, encode_numbered
from tools.attack.attack import Attack, Victim
from tools.attack.attacks.rpc.caller import as_many, batches, make_calls, request, send, session

_HANGING = 2000
"""Calls of one peer that hang: more than it may have."""
_DEEP = b"\x91" + b"\x91" * 30_000 + b"\x90"
"""Arguments that are lists in lists."""


def _calls(
    name: str,
    summary: str,
    make: Callable[[int], bytes],
    *,
    most: int = 2**53,
    is_read: bool = True,
    seconds: float = 10.0,
) -> Attack:
    """Make `most` requests by their number in a session of each enemy."""

    async def one(connection: Connection) -> None:
        stream = await session(connection)
        requests = map(make, range(most))
        if is_read:
            await make_calls(stream, requests)
        for batch in batches(requests):
            await send(stream, batch)

    async def run(victim: Victim) -> None:
        await as_many(victim, one)

    return Attack(name, summary, run, seconds=seconds, calls=True, witness="calling-methods")


def _echo(call: int) -> bytes:
    return request(call, "echo", b"\x91\xa5hello")


def _echo_much(call: int) -> bytes:
    return request(call, "echo", b"\x91" + msgpack.packb(bytes(60_000)))


def _cancelled(call: int) -> bytes:
    return request(call, "wait") + encode_numbered(Kind.CANCEL, call)


def _metadata(call: int) -> bytes:
    return request(call, "echo", b"\x91\xc0", {f"{n:x}": "" for n in range(MAX_METADATA // 8)})


def _lists(call: int) -> bytes:
    return request(call, "echo", b"\x91\xdc\x0f\x00" + b"\x90" * 0xF00)


def _many_lists(call: int) -> bytes:
    return request(call, "echo", b"\x91\xdc\xf0\x00" + b"\x90" * 0xF000)


def _nested(call: int) -> bytes:
    return request(call, "echo", _DEEP)


CALLS = _calls("rpc-calls", "8 keys call without end, and take the answers", _echo)
UNREAD = _calls("rpc-unread-answers", "calls, and takes no answer", _echo_much, is_read=False)
UNKNOWN = _calls(
    "rpc-unknown-methods", "calls methods that there are not", lambda n: request(n, f"m{n}")
)
HANGING = _calls(
    "rpc-hanging-calls",
    "8 keys, 2,000 calls each that do not end",
    lambda n: request(n, "wait"),
    most=_HANGING,
)
BLOCKING = _calls(
    "rpc-blocking-calls", "8 keys fill the threads of handlers", lambda n: request(n, "block")
)
CANCELS = _calls("rpc-cancels", "cancels each call at once", _cancelled)
METADATA = _calls("rpc-metadata", "calls with a thousand names of metadata", _metadata)
LISTS = _calls("rpc-small-lists", "calls with as many lists as a frame may have", _lists)
TOO_MANY_LISTS = _calls("rpc-many-lists", "calls with more lists than that", _many_lists)
NESTING = _calls("rpc-nesting", "lists in lists, 30,000 deep", _nested)


async def _sessions(victim: Victim) -> None:
    async def one(connection: Connection) -> None:
        for _ in count():
            stream = await session(connection)
            await send(stream, request(0, "wait"))
            if secrets.randbelow(2):
                stream.reset("again")
            else:
                await stream.aclose()

    await as_many(victim, one)


SESSIONS = Attack(
    "rpc-sessions",
    "begins session after session, with a call that hangs",
    _sessions,
    seconds=10,
    calls=True,
    witness="calling-methods",
)
