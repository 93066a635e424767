"""What a stream can do under trio it can do under the facades, or there is a reason why not."""

from __future__ import annotations

import pytest

from lattica.facades.aio import AsyncStream
from lattica.facades.blocking import BlockingStream
from lattica.nat.mux.stream import Stream

NEGOTIATION = "the node negotiates before it hands the stream out"
TRIO_THREAD = "for what drives the stream in the trio thread"
CONNECTION = "of the connection, which `peers()` tells about"

ON_NEITHER = {
    "assume_protocol": NEGOTIATION,
    "begin_negotiation": NEGOTIATION,
    "finish_negotiation": NEGOTIATION,
    "connection": CONNECTION,
    "is_relayed": CONNECTION,
    "is_superseded": CONNECTION,
    "is_dead": "out of date when another thread looks; the next call raises",
    "rtt": CONNECTION,
    "wait_gone": "threads look at `is_gone`; asyncio handlers are cancelled (`cancel_when_gone`)",
    "push_back": "what is not wanted yet is left there by `receive_exactly` and its like",
    "receive_view": "data is copied on its way to another thread; `receive_into` copies it once",
    "wake": TRIO_THREAD,
    "wake_sender": TRIO_THREAD,
}
ON_BLOCKING_ONLY = {"close": "it waits, as all its calls; asyncio has `aclose`"}
ON_ASYNC_ONLY = {"aclose": "blocking streams have `close`"}


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize(
    ("facade", "missing"),
    [(BlockingStream, ON_NEITHER | ON_ASYNC_ONLY), (AsyncStream, ON_NEITHER | ON_BLOCKING_ONLY)],
)
def test_streams_of_the_facades_have_what_a_stream_has(
    facade: type, missing: dict[str, str]
) -> None:
    assert public(Stream) - public(facade) == missing.keys()
