"""Many handlers that block for long, in the threads of a real node."""

from __future__ import annotations

import logging
import threading

import pytest

from lattica import Lattica
from lattica.facades.streams.blocking import BlockingStream
from tests.support.nets.nets import node_config

BLOCKED = 512


@pytest.mark.timeout(120)
def test_blocked_handlers_starve_neither_each_other_nor_the_node(caplog):
    caplog.set_level(logging.WARNING, "lattica")
    arrived = threading.Semaphore(0)

    def block(stream: BlockingStream) -> None:
        arrived.release()
        stream.send_all(stream.receive_some())

    with Lattica(node_config()) as server, Lattica(node_config(listen=())) as client:
        server.handle("/block/1", block)
        server.handle("/quick/1", lambda stream: stream.send_all(b"at once"))
        client.connect(server.addrs[0], timeout=60)
        streams = [client.open_stream(server.peer_id, "/block/1") for _ in range(BLOCKED)]
        for _ in range(BLOCKED):
            assert arrived.acquire(timeout=60)
        with client.open_stream(server.peer_id, "/quick/1") as stream:
            assert stream.receive_exactly(7, timeout=60) == b"at once"
        for stream in (streams[0], streams[-1]):
            stream.send_all(b"answer me")
            assert stream.receive_exactly(9, timeout=60) == b"answer me"
    assert not [r for r in caplog.records if "handler threads are busy" in r.getMessage()]


def test_a_warning_says_what_occupies_the_threads(caplog):
    caplog.set_level(logging.WARNING, "lattica")
    gate, arrived = threading.Event(), threading.Semaphore(0)

    def block(stream: BlockingStream) -> None:
        arrived.release()
        gate.wait(60)

    config = node_config()
    with (
        Lattica(config, max_handler_threads=5) as server,
        Lattica(node_config(listen=())) as client,
    ):
        try:
            server.handle("/train/1", block)
            server.handle("/eval/1", block, limit=1)
            client.connect(server.addrs[0], timeout=60)
            names = ["/train/1", "/train/1", "/eval/1", "/eval/1", "/train/1"]
            streams = [client.open_stream(server.peer_id, name) for name in names]
            for _ in range(4):
                assert arrived.acquire(timeout=60)
            (near,) = lines(caplog)
            assert near.startswith("4 of 5 handler threads are busy:")
            assert near.endswith("streams=3 of /train/1, 1 of /eval/1")
            streams += [client.open_stream(server.peer_id, "/train/1") for _ in range(2)]
            while len(lines(caplog)) < 2:
                assert not gate.wait(0.01)
            assert "5 of 5 handler threads are busy, and 1 streams wait" in lines(caplog)[1]
        finally:
            gate.set()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("limit", [None, 2])
def test_one_peer_does_not_hold_all_threads_or_places(limit):
    """Streams of one peer that send a byte and no more, and another peer that waits."""
    with (
        Lattica(node_config(), max_handler_threads=2 if limit is None else 1024) as server,
        Lattica(node_config(listen=())) as hog,
        Lattica(node_config(listen=())) as guest,
    ):
        server.handle("/few/1", lambda s: s.send_all(s.receive_exactly(5)), limit=limit)
        for client in (hog, guest):
            client.connect(server.addrs[0], timeout=60)
        held = [hog.open_stream(server.peer_id, "/few/1") for _ in range(6)]
        for stream in held:
            stream.send_all(b"a")
        with guest.open_stream(server.peer_id, "/few/1", timeout=60) as stream:
            stream.send_all(b"hello")
            assert stream.receive_exactly(5, timeout=60) == b"hello"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [m for r in caplog.records if "handler threads" in (m := r.getMessage())]
