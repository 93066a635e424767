"""What each benchmark measures: the names, units and directions of its figures.

A *workload* is one run of a server and a client process; it yields the figures of one or more
*cases*. Case and implementation names are a contract (design, section 4): other tools read them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

OURS = "lattica"
LINK_BYTES_PER_SECOND = 50e6
"""The emulated link of `high-bdp`: 400 Mbit/s."""
LINK_DELAY = 0.025
"""Seconds each way on that link: 50 ms of round trip."""
LOSSY_RATE = 200e6
"""Bits a second."""
LOSSY_DELAY = 0.025
LOSSY_LOSS = 0.01
"""Of the packets in the direction of the data."""
LOSSY_CONGESTION = "cubic"
"""What TCP uses there unless told otherwise: Linux's default, whatever this machine's is."""


@dataclass(frozen=True, slots=True)
class Case:
    """One figure.

    `better` says which direction is an improvement; `what` is one line for people.
    """

    bench: str
    name: str
    unit: str
    better: Literal["higher", "lower"]
    what: str


@dataclass(frozen=True, slots=True)
class Workload:
    """One run of two processes.

    `name` is what the children are told. `path` is what lies between them: "slow" is the delaying
    proxy, "lossy" a link of the network lab. Over the transport "relay", both are connected to a
    third process by TCP. `stretch` multiplies the measured seconds, and the limit. `max_repeats`
    bounds repeats of what is long and hardly noisy. `references` are run whether asked for or not:
    without them the figure says nothing.
    """

    name: str
    cases: tuple[Case, ...]
    transport: Literal["tcp", "quic", "relay"] = "tcp"
    path: Literal["loopback", "slow", "lossy"] = "loopback"
    stretch: float = 1.0
    max_repeats: int = 100
    references: tuple[str, ...] = ()

    @property
    def bench(self) -> str:
        return self.cases[0].bench

    @property
    def label(self) -> str:
        """For people: the benches share names."""
        return f"{self.bench} {self.name}"


def _bulk(name: str, unit: str, what: str, better: Literal["higher", "lower"] = "higher") -> Case:
    return Case("bulk", name, unit, better, what)


def _rpc(name: str, unit: str, what: str, better: Literal["higher", "lower"] = "higher") -> Case:
    return Case("rpc", name, unit, better, what)


def _call(
    name: str, unit: str, what: str, better: Literal["higher", "lower"] = "higher"
) -> Workload:
    """A case of calls. Children know it by another name: `bulk` has a `stream-1MiB` too."""
    return Workload(f"rpc-{name}", (_rpc(name, unit, what, better),))


def _beside_bulk(suffix: str) -> Workload:
    cases = (
        _rpc(f"small-beside-bulk-p99{suffix}", "ms", "128 B calls beside such a stream", "lower"),
        _rpc(f"small-beside-bulk-load{suffix}", "MB/s", "what that stream moved meanwhile"),
    )
    return Workload(f"rpc-{cases[0].name}", cases)


_MAIN_CALLS = (
    ("unary-128B-seq", "1/s", "unary calls that give back 128 B, one at a time"),
    ("unary-128B-c64", "1/s", "the same, 64 in flight"),
    ("unary-256KiB-c32", "1/s", "unary calls that give back 256 KiB, 32 in flight"),
    ("stream-1MiB", "MB/s", "a call that answers with a stream of tensors of 1 MiB"),
)


def _ports(name: str, unit: str, what: str) -> Workload:
    case = Case("ports", name, unit, "higher", what)
    return Workload(f"ports-{name}", (case,), references=("tcp",))


def _content(name: str, what: str) -> Workload:
    return Workload(f"content-{name}", (Case("content", name, "MB/s", "higher", what),))


def _quic(name: str, unit: str, what: str) -> Workload:
    return Workload(name, (Case("quic", name, unit, "higher", what),), transport="quic")


def _relay(
    name: str, unit: str, what: str, better: Literal["higher", "lower"] = "higher"
) -> Workload:
    repeats = 100 if better == "higher" else 1
    cases = (Case("relay", name, unit, better, what),)
    return Workload(name, cases, transport="relay", max_repeats=repeats)


def _lossy(transport: Literal["tcp", "quic"], references: tuple[str, ...]) -> Workload:
    name = f"stream-lossy-1pct-50ms-{transport}"
    what = "one stream over 200 Mbit/s with 1% loss and 50 ms of round trip, from a cold start"
    return Workload(
        name,
        (Case("quic", name, "MB/s", "higher", what),),
        transport=transport,
        path="lossy",
        stretch=7.5,
        references=references,
    )


WORKLOADS: tuple[Workload, ...] = (
    Workload("stream-1MiB", (_bulk("stream-1MiB", "MB/s", "one stream, writes of 1 MiB"),)),
    Workload("stream-256KiB", (_bulk("stream-256KiB", "MB/s", "one stream, writes of 256 KiB"),)),
    Workload(
        "message-1MiB-acked",
        (
            _bulk(
                "message-1MiB-acked",
                "MB/s",
                "1 MiB at a time, each acknowledged before the next is sent",
            ),
        ),
    ),
    Workload(
        "streams-100",
        (
            _bulk("streams-100", "MB/s", "100 streams at once on one connection, in total"),
            _bulk("streams-100-fairness", "slowest/mean", "of those 100 streams"),
        ),
    ),
    Workload(
        "pingpong-beside-bulk-p50",
        (
            _bulk(
                "pingpong-beside-bulk-p50",
                "ms",
                "128 B there and back on its own stream beside a saturating one, median",
                "lower",
            ),
            _bulk("pingpong-beside-bulk-p99", "ms", "the same, 99th percentile", "lower"),
            _bulk(
                "pingpong-beside-bulk-load", "MB/s", "what the saturating stream moved meanwhile"
            ),
        ),
    ),
    Workload(
        "handshakes",
        (_bulk("handshakes", "1/s", "dial, secure, multiplex, close: one after the other"),),
    ),
    Workload("dials", (_bulk("dials", "1/s", "the same by 32 dialers at once"),)),
    Workload(
        "idle-connection",
        (
            _bulk(
                "idle-connection",
                "KiB",
                "memory of the accepting process per idle connection",
                "lower",
            ),
        ),
        max_repeats=1,
    ),
    Workload(
        "high-bdp",
        (
            _bulk(
                "high-bdp",
                "of 50 MB/s",
                "one stream over a link of 400 Mbit/s with 50 ms of round trip",
            ),
        ),
        path="slow",
        stretch=2.5,
    ),
    *(_call(*each) for each in _MAIN_CALLS),
    _beside_bulk(""),
    _call("shm-1MiB", "MB/s", "the stream of tensors, by memory that both processes share"),
    _call("unary-128B-open-p99", "ms", "128 B calls of which 10,000 begin a second", "lower"),
    Workload(
        "rpc-array-1GiB-rss-ratio",
        (
            _rpc(
                "array-1GiB-rss-ratio",
                "of its size",
                "growth of either process by a call with an array of 1 GiB",
                "lower",
            ),
        ),
        max_repeats=1,
    ),
    *(
        replace(_call(f"{name}-quic", unit, f"{what}; over QUIC"), transport="quic")
        for name, unit, what in _MAIN_CALLS
    ),
    *(
        replace(_call(f"{name}-relay", unit, f"{what}; through a relay"), transport="relay")
        for name, unit, what in _MAIN_CALLS
    ),
    replace(_beside_bulk("-quic"), transport="quic"),
    replace(_beside_bulk("-relay"), transport="relay"),
    Workload(
        "stream-echo-128B-seq",
        (_rpc("stream-echo-128B-seq", "1/s", "128 B there and back on one raw stream"),),
    ),
    Workload(
        "stream-echo-128B-c64",
        (_rpc("stream-echo-128B-c64", "1/s", "the same on 64 streams of one connection at once"),),
    ),
    _quic("stream-1MiB", "MB/s", "one stream over QUIC, writes of 1 MiB"),
    Workload(
        "streams-100",
        (
            Case(
                "quic", "streams-100", "MB/s", "higher", "100 streams at once over QUIC, in total"
            ),
            Case("quic", "streams-100-fairness", "slowest/mean", "higher", "of those 100 streams"),
        ),
        transport="quic",
    ),
    _quic("echo-128B-seq", "1/s", "128 B there and back on one stream over QUIC"),
    _quic("echo-128B-c64", "1/s", "the same on 64 streams of one connection at once"),
    _quic("handshakes", "1/s", "dial, prove both keys, close: one after the other"),
    Workload(
        "streams-10000-rss",
        (
            Case(
                "quic",
                "streams-10000-rss",
                "KiB",
                "lower",
                "growth of both processes by 10,000 streams opened and closed",
            ),
        ),
        transport="quic",
        max_repeats=1,
    ),
    _lossy("quic", ()),
    _lossy("tcp", ("tcp-cubic", "tcp-bbr")),
    _ports("stream-1MiB", "MB/s", "one connection through expose and forward, writes of 1 MiB"),
    _ports("echo-128B-seq", "1/s", "128 B there and back on one such connection"),
    _ports("echo-128B-c64", "1/s", "the same on 64 connections at once"),
    _ports("connects", "1/s", "connect, 128 B there and back, close: one after the other"),
    Workload(
        "publish-1KiB",
        (Case("pubsub", "publish-1KiB", "1/s", "higher", "messages of a topic, signed"),),
    ),
    _content("file-1GiB", "a file from one provider, verified and synced to disk"),
    _content("publish-1GiB", "a file in the page cache, hashed and ready to be served"),
    _relay("stream-1MiB", "MB/s", "one stream over one circuit, writes of 1 MiB"),
    _relay("echo-128B-seq", "1/s", "128 B there and back on one stream over one circuit"),
    _relay("circuits-20", "MB/s", "20 circuits at once, each of a peer of its own, in total"),
    Workload(
        "reserve-to-byte-p50",
        (
            Case(
                "relay",
                "reserve-to-byte-p50",
                "ms",
                "lower",
                "from asking for a reservation to the first byte that came back over a circuit",
            ),
            Case("relay", "reserve-to-byte-p99", "ms", "lower", "the same, 99th percentile"),
        ),
        transport="relay",
    ),
    Workload(
        "circuits-500-p99",
        (
            Case(
                "relay",
                "circuits-500-p99",
                "ms",
                "lower",
                "128 B there and back on 500 open circuits, twice a second on each",
            ),
            Case(
                "relay",
                "circuits-500-added-p99",
                "ms",
                "lower",
                "of that, what 500 direct connections do not take",
            ),
        ),
        transport="relay",
        stretch=2.0,
    ),
    Workload(
        "local-api-p50",
        (
            Case(
                "relay",
                "local-api-p50",
                "ms",
                "lower",
                "128 B there and back by a call of the local gRPC API of a node to a peer of it",
            ),
            Case(
                "relay",
                "local-api-added-p50",
                "ms",
                "lower",
                "what of that the same call by a node of the program's own does not take",
            ),
        ),
    ),
    Workload(
        "lost-to-other-p50",
        (
            Case(
                "relay",
                "lost-to-other-p50",
                "s",
                "lower",
                "from a relay's end by SIGKILL until its client is at another one",
            ),
            Case("relay", "lost-to-other-worst", "s", "lower", "the same, the longest"),
            Case(
                "relay",
                "lost-back-p50",
                "s",
                "lower",
                "from when a killed relay runs again until its client is there again",
            ),
            Case("relay", "lost-back-worst", "s", "lower", "the same, the longest"),
        ),
        stretch=3.0,
        max_repeats=1,
    ),
    _relay(
        "circuit-memory",
        "KiB",
        "memory of the relay per open circuit that has carried 1 MiB",
        "lower",
    ),
    _relay(
        "circuit-memory-busy",
        "KiB",
        "the same while all of them move more than the relay can",
        "lower",
    ),
)

BENCHES: tuple[str, ...] = tuple(dict.fromkeys(w.bench for w in WORKLOADS))


def select(bench: str, only: tuple[str, ...] = ()) -> tuple[Workload, ...]:
    """The workloads of `bench` ("all" for every one) that yield a case named in `only`.

    An empty `only` selects them all. Raises ValueError for an unknown bench or case name.
    """
    if bench != "all" and bench not in BENCHES:
        raise ValueError(f"unknown bench {bench!r}; there are: all, {', '.join(BENCHES)}")
    chosen = tuple(w for w in WORKLOADS if bench in ("all", w.bench))
    names = [case.name for w in chosen for case in w.cases]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"unknown case {unknown[0]!r}; {bench} has: {', '.join(names)}")
    if not only:
        return chosen
    return tuple(w for w in chosen if any(case.name in only for case in w.cases))
