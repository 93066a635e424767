"""What a node or a stream can do under trio it can do under the facades, or there is a reason why
not."""

from __future__ import annotations

import inspect

import pytest

from lattica.content import Publisher
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.store.store import Store
from lattica.dht.dht import Dht
from lattica.facades.aio import AsyncLattica
from lattica.facades.blocking import Lattica
from lattica.facades.dht import AsyncDht, BlockingDht
from lattica.facades.store.aio import AsyncDocument, AsyncStore
from lattica.facades.store.blocking import BlockingDocument, BlockingStore
from lattica.facades.streams.aio import AsyncStream
from lattica.facades.streams.blocking import BlockingStream
from lattica.nat.mux.stream import Stream
from lattica.node import Node

NEGOTIATION = "the node negotiates before it hands the stream out"
TRIO_THREAD = "for what drives the stream in the trio thread"
CONNECTION = "of the connection, which `peers()` tells about"

PLACES = "for who shares out places in the trio thread"
ON_NEITHER = {
    "assume_protocol": NEGOTIATION,
    "has_backlog": TRIO_THREAD,
    "begin_negotiation": NEGOTIATION,
    "finish_negotiation": NEGOTIATION,
    "connection": CONNECTION,
    "is_dead": "out of date when another thread looks; the next call raises",
    "leave_path": "a fetch, which knows that it waits in vain, does it itself",
    "keep_received": "for what passes bytes on in the trio thread, as forwarded ports do",
    "wait_sent": "for what passes bytes on in the trio thread, as forwarded ports do",
    "push_back": "what is not wanted yet is left there by `receive_exactly` and its like",
    "receive_by": TRIO_THREAD,
    "receive_view": "data is copied on its way to another thread; `receive_into` copies it once",
    "source": PLACES,
    "is_awaited": PLACES,
    "progress": PLACES,
    "send_nowait": "a queue of their own lets small sends of the facades not wait either",
    "wait_sendable": "the other half of `send_nowait`",
    "cancel_when_gone": "of a scope of trio's; `wait_gone` is there",
    "wake": TRIO_THREAD,
    "wake_sender": TRIO_THREAD,
}
ON_BLOCKING_ONLY = {"close": "it waits, as all its calls; asyncio has `aclose`"}
ON_ASYNC_ONLY = {"aclose": "blocking streams have `close`"}

NODE_ON_NEITHER = {
    "ports": "`expose` and `forward` do the same",
    "in_use": "for daemons, which hold a node in the trio thread",
    "topics": "lives in the trio thread; each is had by `topic`",
    "host": "py-libp2p's, which lives in the trio thread",
    "store": "`documents` is it; `store` is a call of the original's API",
    "swarm": "lives in the trio thread; what it knows is in `peers`, `path` and `events`",
    "traversal": "lives in the trio thread",
}
EXCHANGE = "for exchanges with peers, in the trio thread"
DOCUMENT_ON_NEITHER = {
    "state": "large, and read in the trio thread; what is in it is at the types",
    "heads": EXCHANGE,
    "given_by": EXCHANGE,
    "head_index": EXCHANGE,
    "adopting": EXCHANGE,
    "making_snapshot": EXCHANGE,
    "naming": EXCHANGE,
    "proof_in_turns": "the plain name does it in turns",
    "proving": EXCHANGE,
    "prune_in_turns": "the plain name does it in turns",
    "pruning": EXCHANGE,
    "receive_snapshot_in_turns": "the plain name does it in turns",
    "receiving_snapshot": EXCHANGE,
    "root_in_turns": "the plain name does it in turns",
    "snapshot_in_turns": "the plain name does it in turns",
    "stating": EXCHANGE,
    "has_gap": EXCHANGE,
    "losses": EXCHANGE,
    "id_at": EXCHANGE,
    "chains_of": EXCHANGE,
    "chains_since": EXCHANGE,
    "fork_of": EXCHANGE,
    "forks": EXCHANGE,
    "receive": EXCHANGE,
    "receive_fork": EXCHANGE,
    "advance": EXCHANGE,
    "replicator": EXCHANGE,
    "comes_first": EXCHANGE,
    "may_read": EXCHANGE,
    "may_come_to_read": EXCHANGE,
    "standing_of": EXCHANGE,
    "is_owner": "`owners` says who they are",
    "may_pull": EXCHANGE,
    "resolving": EXCHANGE,
    "tend_keys": "a document of a node does it by itself",
    "withdrawn_for": EXCHANGE,
    "capability": EXCHANGE,
    "editing": "for texts and lists, in the trio thread",
    "next_seq": "for texts and lists, in the trio thread",
    "run": EXCHANGE,
    "now_ms": "the clock of the machine, unless a test has another one",
    "sync_counts": "for tools in the trio thread",
}
PUBLISHER_ON_NEITHER = {
    "catalog": "lives in the trio thread; `publish` gives a ticket for what is in it",
    "ticket": "`publish` again gives one, and hashes only what has changed",
}
ARGUMENTS_MISSING = {
    (Lattica, "handle"): {
        "cancel_when_gone": "no thread can be cancelled; handlers look at `is_gone`",
        "owner": "a facade is one owner, the application",
    },
    (AsyncLattica, "handle"): {"owner": "a facade is one owner, the application"},
    (BlockingStream, "close"): {"stop_peer": "for what forwards bytes, in the trio thread"},
    (Lattica, "unhandle"): {"owner": "a facade is one owner, the application"},
    (AsyncLattica, "unhandle"): {"owner": "a facade is one owner, the application"},
}


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


@pytest.mark.parametrize("facade", [Lattica, AsyncLattica])
def test_the_facades_have_what_a_node_has(facade: type) -> None:
    node = {name for name in dir(Node()) if not name.startswith("_")}
    assert node - public(facade) == NODE_ON_NEITHER.keys()


@pytest.mark.parametrize("facade", [BlockingStore, AsyncStore])
def test_the_stores_of_the_facades_have_what_a_store_has(facade: type) -> None:
    own = {
        "aclose": "it ends with the node",
        "opened": "for the node, in the trio thread",
        "borrowed": "for the node; documents of a facade are open until they are closed",
    }
    assert public(Store) - public(facade) == own.keys()
    for name in public(Store) & public(facade):
        assert parameters(Store, name) == parameters(facade, name), name


@pytest.mark.parametrize("facade", [BlockingDocument, AsyncDocument])
def test_the_documents_of_the_facades_have_what_a_document_has(facade: type) -> None:
    assert public(SharedDocument) - public(facade) == DOCUMENT_ON_NEITHER.keys()
    for name in public(SharedDocument) & public(facade):
        if inspect.isfunction(getattr(SharedDocument, name)):
            assert parameters(SharedDocument, name) <= parameters(facade, name), name


@pytest.mark.parametrize("facade", [Lattica, AsyncLattica])
def test_the_facades_have_what_a_publisher_has(facade: type) -> None:
    publisher = {name for name in dir(Publisher(Node())) if not name.startswith("_")}
    assert publisher - public(facade) == PUBLISHER_ON_NEITHER.keys()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Lattica, Node),
        (AsyncLattica, Node),
        (Lattica, Publisher),
        (AsyncLattica, Publisher),
        (BlockingStream, Stream),
        (AsyncStream, Stream),
    ],
)
def test_calls_of_the_facades_take_what_those_under_trio_take(ours: type, theirs: type) -> None:
    compared = 0
    for name in public(ours) & public(theirs):
        if inspect.isfunction(getattr(theirs, name)) and inspect.isfunction(getattr(ours, name)):
            compared += 1
            missing = parameters(theirs, name) - parameters(ours, name)
            assert missing == ARGUMENTS_MISSING.get((ours, name), {}).keys(), name
    assert compared


@pytest.mark.parametrize("facade", [BlockingDht, AsyncDht])
def test_the_facades_have_what_a_dht_has(facade: type) -> None:
    # It ends with the node; what the configuration says is the node's.
    assert public(Dht) - public(facade) == {"aclose"}
    for name in public(facade):
        assert not parameters(Dht, name) - parameters(facade, name), name
        if inspect.iscoroutinefunction(getattr(Dht, name)):
            assert "timeout" in parameters(facade, name)


@pytest.mark.parametrize("facade", [BlockingStream, AsyncStream, Lattica, AsyncLattica])
def test_what_may_wait_takes_a_timeout(facade: type) -> None:
    waits = {"send_all", "receive_some", "receive_into", "wait_gone", "connect", "wait_reachable"}
    for name in waits & public(facade):
        assert "timeout" in parameters(facade, name)


def parameters(cls: type, name: str) -> set[str]:
    return set(inspect.signature(getattr(cls, name)).parameters)
