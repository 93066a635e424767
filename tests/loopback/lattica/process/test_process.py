"""`Lattica(process=True)` beside an ordinary node: calls, streams, RPC, content, and its end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lattica.config import NodeConfig, load_config
from lattica.content import FetchProgress
from lattica.daemon.process.blocking import ProcessLattica
from lattica.errors import (
    CannotCrossError,
    DialError,
    KeyInUseError,
    LocalProtocolError,
    ProcessEndedError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.facades.blocking import Lattica
from lattica.facades.streams.blocking import BlockingStream
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.swarm.events import PeerConnected
from lattica.rpc.ports.ports import ANYONE
from tests.support.named_handlers import say_where

pytestmark = pytest.mark.timeout(120)
PATIENCE = 30.0


def config(**more: object) -> NodeConfig:
    quiet = {"nat.port_mapping.enabled": False, "listen": ["/ip4/127.0.0.1/tcp/0"]}
    return load_config(environment={}, overrides=quiet | more)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Lattica, Lattica, PeerId]]:
    """One whose node is in a process of its own, an ordinary one, and the ordinary one's ID."""
    with Lattica(config(), process=True) as ours, Lattica(config()) as other:
        assert type(ours) is ProcessLattica
        yield ours, other, ours.connect([str(addr) for addr in other.addrs])


def pid_of(lattica: Lattica) -> int:
    pid = lattica.process_id
    assert pid is not None
    return pid


def echo(stream: BlockingStream) -> None:
    for chunk in stream:
        stream.send_all(chunk)


def test_the_node_is_in_a_process_of_its_own(pair: tuple[Lattica, Lattica, PeerId]) -> None:
    ours, other, peer = pair
    assert pid_of(ours) != os.getpid()
    assert other.process_id is None
    assert ours.is_connected(peer)
    assert [each.peer_id for each in ours.peers()] == [peer]
    assert ours.path(peer).path == "direct-tcp"  # type: ignore[union-attr]
    assert ours.identity.peer_id == ours.peer_id
    assert str(ours.addrs[0]).endswith(f"/p2p/{ours.peer_id}")
    with pytest.raises(DialError) as caught:
        ours.connect("/ip4/127.0.0.1/tcp/1")
    assert caught.value.attempts[0].error == "ECONNREFUSED"
    with pytest.raises(TimeoutError):
        ours.wait_connected(ours.peer_id, timeout=0.05)


def test_streams_pass_in_both_directions(pair: tuple[Lattica, Lattica, PeerId]) -> None:
    ours, other, peer = pair
    data = np.random.default_rng(1).bytes(3_000_000)
    for one, two, name in ((ours, other, "/echo/1"), (other, ours, "/echo/2")):
        two.handle(name, echo)
        with one.open_stream(two.peer_id, name) as stream:
            assert (stream.peer_id, stream.protocol) == (two.peer_id, name)
            sender = threading.Thread(target=lambda s=stream: (s.send_all(data), s.send_eof()))
            sender.start()
            assert b"".join(stream) == data
            sender.join()
    with pytest.raises(UnsupportedProtocolError):
        ours.open_stream(peer, "/not/served/1")
    other.handle("/refuse/1", lambda stream: stream.reset("no", 9))
    with pytest.raises(StreamResetError) as caught:
        ours.open_stream(peer, "/refuse/1").receive_some(timeout=PATIENCE)
    assert caught.value.code == 9
    ours.unhandle("/echo/2")
    with pytest.raises(UnsupportedProtocolError):
        other.open_stream(ours.peer_id, "/echo/2").receive_some(timeout=PATIENCE)
    with pytest.raises(LocalProtocolError, match="is served by"):
        ours.handle("/ipfs/ping/1.0.0", echo)
    waited = threading.Event()
    other.handle("/silent/1", lambda _: waited.wait(PATIENCE))
    with pytest.raises(TimeoutError):
        ours.open_stream(peer, "/silent/1").receive_some(timeout=0.05)
    waited.set()


def test_a_handler_that_is_named_runs_in_the_nodes_process(
    pair: tuple[Lattica, Lattica, PeerId],
) -> None:
    ours, other, _ = pair
    name = f"{say_where.__module__}:say_where"
    for one, two in ((ours, other), (other, ours)):
        one.handle("/where/1", name)
        there = one.process_id or os.getpid()
        assert two.open_stream(one.peer_id, "/where/1").receive_some() == str(there).encode()
    ours.handle("/where/1", say_where)
    assert other.open_stream(ours.peer_id, "/where/1").receive_some() == str(os.getpid()).encode()
    ours.handle("/where/1", name)
    ours.unhandle("/where/1")
    with pytest.raises(UnsupportedProtocolError):
        other.open_stream(ours.peer_id, "/where/1").receive_some()
    for wrong in ("no_such_module:f", f"{say_where.__module__}:nothing", "__main__:f", "words"):
        for each in (ours, other):
            with pytest.raises(LocalProtocolError, match="there is no handler"):
                each.handle("/wrong/1", wrong)


class Sums:
    """What is served."""

    def where(self) -> int:
        return os.getpid()

    def add(self, x: np.ndarray, y: int) -> np.ndarray:
        return x + y

    def count(self, stop: int) -> Iterator[int]:
        yield from range(stop)

    def fail(self) -> None:
        raise ValueError("so it is")


def test_services_and_stubs_are_the_programs(pair: tuple[Lattica, Lattica, PeerId]) -> None:
    ours, other, peer = pair
    ours.rpc.serve(Sums())
    other.rpc.serve(Sums())
    large = np.arange(1_000_000, dtype=np.float32)
    for one, target in ((ours, peer), (other, ours.peer_id)):
        stub = one.rpc.stub(target, Sums)
        assert stub.where() == os.getpid()
        assert np.array_equal(stub.add(large, 1), large + 1)
        assert list(stub.count(3)) == [0, 1, 2]
        with pytest.raises(Exception, match="so it is"):
            stub.fail()


def test_content_goes_with_its_progress(
    pair: tuple[Lattica, Lattica, PeerId], tmp_path: Path
) -> None:
    ours, other, _ = pair
    (tmp_path / "f").write_bytes(os.urandom(2_000_000))
    threads, events = set(), []

    def progress(event: object) -> None:
        threads.add(threading.get_ident())
        events.append(event)

    ticket = ours.publish(tmp_path / "f", "f", progress=progress)
    assert other.fetch(ticket, tmp_path / "there").bytes_fetched == 2_000_000
    with chdir(tmp_path):  # the other process stays where it is
        assert ours.publish("f").cid == ticket.cid
    back = other.publish(tmp_path / "there" / "f", "back")
    got = ours.fetch(back, tmp_path / "back", progress=progress)
    assert got.paths[0].read_bytes() == (tmp_path / "f").read_bytes()
    assert threads == {threading.get_ident()}
    assert isinstance(events[-1], FetchProgress)
    with pytest.raises(ZeroDivisionError):
        ours.fetch(back, tmp_path / "again", progress=lambda _: 1 / 0)


def test_state_dicts_and_weights_lie_in_shared_memory(
    pair: tuple[Lattica, Lattica, PeerId], tmp_path: Path
) -> None:
    ours, other, _ = pair
    state: dict[str, Any] = {"w": np.arange(1000, dtype=np.float32), "b": np.ones((3, 3), np.int64)}
    target: dict[str, Any] = {name: np.zeros_like(value) for name, value in state.items()}
    other.load_state_dict(ours.publish_state_dict(state, tmp_path / "a"), target)
    assert np.array_equal(target["w"], state["w"])
    target = {"w": np.zeros(1000, np.float32), "own": np.full(2, 7)}
    loaded = ours.load_state_dict(
        other.publish_state_dict(state, tmp_path / "b"), target, strict=False
    )
    assert loaded.missing == ("own",)
    assert np.array_equal(target["w"], state["w"])
    assert target["own"].tolist() == [7, 7]

    seen: list[Any] = []
    with other.publish_weights("policy") as publisher:
        following = ours.follow_weights(publisher.channel, on_version=seen.append)
        with following as weights:
            publisher.push(state)
            version = weights.wait(timeout=PATIENCE)
            target = {"w": np.zeros(1000, np.float32)}
            version.load_into(target)
            assert np.array_equal(target["w"], state["w"])
            assert weights.newest.version == version.version  # type: ignore[union-attr]
    assert [each.version for each in seen] == [version.version]
    with ours.publish_weights("mine") as publisher, other.follow_weights(publisher.channel) as got:
        pushed = publisher.push(state)
        assert got.wait(timeout=PATIENCE).cid == pushed.cid


def test_topics_events_documents_and_the_dht_are_called_there(
    pair: tuple[Lattica, Lattica, PeerId],
) -> None:
    ours, other, peer = pair
    with ours.topic("news").subscribe() as messages:
        topic = other.topic("news")
        topic.wait_peers(timeout=PATIENCE)
        topic.publish(b"hi")
        assert messages.receive(timeout=PATIENCE).data == b"hi"
        with pytest.raises(TimeoutError):
            messages.receive(timeout=0.05)
        threading.Timer(0.1, messages.close).start()
        assert list(messages) == []
    with ours.events() as events:
        ours.disconnect(peer)
        ours.connect([str(addr) for addr in other.addrs])
        while not isinstance(event := events.receive(timeout=PATIENCE), PeerConnected):
            pass
        assert event.peer_id == peer
    document = ours.documents.create("plan")
    document.grant(peer)
    with document.changes() as changes:
        document.registers["x"] = {"deep": [1, b"2"]}
        assert changes.receive(timeout=PATIENCE).name == "x"  # type: ignore[union-attr]
    document.text("t").append("words")
    document.set("s").add("q")
    document.list("l").append(1, 2)
    with other.documents.open(document.id, timeout=PATIENCE) as theirs:
        theirs.synced(timeout=PATIENCE)
        assert dict(theirs.registers) == {"x": {"deep": [1, b"2"]}}
    assert dict(document.registers) == {"x": {"deep": [1, b"2"]}}
    assert str(document.text("t")) == "words"
    assert ("q" in document.set("s"), len(document.set("s"))) == (True, 1)
    assert list(document.list("l")) == [1, 2]
    assert ours.dht.status().mode in ("client", "server")
    assert list(ours.discovery.find_peers("nobody")) == []


def test_ports_and_what_cannot_cross(pair: tuple[Lattica, Lattica, PeerId]) -> None:
    ours = pair[0]
    seen: list[object] = []
    with ours.expose(9, name="web", to=ANYONE, on_event=seen.append) as port:
        assert port.name == "web"
    lock: Any = threading.Lock()
    for call in (
        lambda: ours.topic("t").set_validator(lambda _: True),
        lambda: ours.expose(9, name="other", source=lambda _: "127.0.0.1"),
        lambda: ours.documents.create("d").set("x").add(lock),
    ):
        with pytest.raises(CannotCrossError):
            call()
    ours.topic("t").set_validator(None)


def test_a_key_is_locked_as_by_any_node(tmp_path: Path) -> None:
    own = config(identity_path=str(tmp_path / "key"), data_dir=str(tmp_path))
    with Lattica(own, process=True) as ours:
        assert ours.config.identity_path == tmp_path / "key"
        with pytest.raises(KeyInUseError):
            Lattica(own, process=True).start()
        pid = pid_of(ours)
    assert not is_there(pid)
    with pytest.raises(LocalProtocolError, match="is closed"):
        ours.peers()


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_call_that_waits_is_told_once_that_the_process_has_died(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Lattica(config(), process=True) as ours, Lattica(config()) as other:
        other.handle("/hang/1", lambda stream: stream.receive_some())
        other.rpc.serve(Hang())
        peer = ours.connect([str(addr) for addr in other.addrs])
        stream = ours.open_stream(peer, "/hang/1")
        messages = ours.topic("t").subscribe()
        stub = ours.rpc.stub(peer, Hang)
        calls = [
            stream.receive_some,
            messages.receive,
            lambda: list(messages),
            lambda: ours.wait_connected(ours.peer_id),
            stub.hang,
        ]
        errors: list[BaseException] = []
        begun = threading.Barrier(len(calls) + 1)

        def wait(call: object) -> None:
            begun.wait()
            try:
                call()  # type: ignore[operator]
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=wait, args=(call,), daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        begun.wait()
        time.sleep(0.5)  # they wait now; if one does not yet, it is told the same
        with caplog.at_level(logging.ERROR, "lattica"):
            os.kill(pid_of(ours), signal.SIGKILL)
            for thread in threads:
                thread.join(PATIENCE)
        assert [type(error) for error in errors] == [ProcessEndedError] * len(calls)
        assert "it was ended by SIGKILL" in str(errors[0])
        with pytest.raises(ProcessEndedError):
            ours.peers()
        messages.close()  # as the end of a `with` does, which has an error of its own to tell
        Hang.over.set()
    lines = [line for line in caplog.messages if "is gone" in line]
    assert len(lines) == 1


class Hang:
    over = threading.Event()

    def hang(self) -> None:
        self.over.wait(PATIENCE)


PROGRAM = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
from lattica import Lattica, load_config
quiet = {"nat.port_mapping.enabled": False, "listen": ["/ip4/127.0.0.1/tcp/0"]}
ours = Lattica(load_config(environment={}, overrides=quiet), process=True).start()
try:
    print(ours.process_id, flush=True)
    ours.wait_connected(ours.peer_id)
except KeyboardInterrupt:
    print(ours.peers(), flush=True)
time.sleep(60)
"""


def test_ctrl_c_is_the_programs_alone_and_when_that_is_killed_the_node_ends_with_it() -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            pid = int(program.stdout.readline())
            os.kill(pid, signal.SIGINT)  # as a terminal does, which interrupts both
            program.send_signal(signal.SIGINT)
            assert program.stdout.readline() == "()\n"
            assert is_there(pid)
        finally:
            program.kill()
    deadline = time.monotonic() + PATIENCE
    while is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_there(pid)
