"""What is given to the other process arrives as it was, or is refused by name."""

from __future__ import annotations

import os
import socket
import threading
from array import array
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica import load_config
from lattica.content import FetchOptions
from lattica.content.tensors.elements import RawTensor
from lattica.daemon.errors import CannotCrossError
from lattica.daemon.process.values import Callback, HandedSocket, SharedState, Values
from lattica.errors import (
    DialAttempt,
    DialError,
    LatticaError,
    StreamResetError,
    UnsupportedProtocolError,
)
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.net.multiaddr import Multiaddr
from lattica.nat.mux.priority import Priority
from lattica.nat.swarm.events import PathChanged

PEER = Identity.generate().peer_id
ADDR = Multiaddr("/ip4/192.0.2.1/tcp/4001")


def sent(value: object, **options: Any) -> Any:
    return Values(**options).decode(*Values().encode(value))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.just(Path("/a b"))
    | st.sampled_from(Priority)
    | st.just(PEER)
    | st.just(ADDR),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.lists(inner).map(tuple)
        | st.frozensets(st.integers() | st.text())
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=20,
)


@given(plain)
@settings(max_examples=60, deadline=None)
def test_data_arrives_as_it_was(value: object) -> None:
    got = sent(value)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        load_config(environment={}, overrides={"bootstrap": [f"{ADDR}/p2p/{PEER}"]}),
        FetchOptions(),
        PathChanged(PEER, "direct-tcp", ADDR, "relayed"),
        array("Q", [1, 2**60]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_of_ours_arrive_field_by_field(value: object) -> None:
    got = sent(value)
    assert got == value
    assert type(got) is type(value)
    if hasattr(value, "__dataclass_fields__"):
        for field in fields(value):  # type: ignore[arg-type]
            assert getattr(got, field.name) == getattr(value, field.name)


def test_errors_arrive_with_their_type_their_words_and_what_they_have() -> None:
    dial = sent(DialError(PEER, [DialAttempt(str(ADDR), "refused")]))
    assert type(dial) is DialError
    assert str(dial) == f"cannot connect to {PEER}: {ADDR}: refused"
    assert dial.attempts == (DialAttempt(str(ADDR), "refused"),)
    assert sent(StreamResetError("gone", 7)).code == 7
    assert sent(UnsupportedProtocolError(PEER, ["/a"])).protocols == ("/a",)
    missing = sent(FileNotFoundError(2, "not there", "/x"))
    assert (type(missing), missing.errno, missing.filename) == (FileNotFoundError, 2, "/x")
    assert str(missing) == str(FileNotFoundError(2, "not there", "/x"))
    assert sent(StopIteration(3)).value == 3
    with_note = ValueError("bad")
    with_note.add_note("here")
    assert sent(with_note).__notes__ == ["here"]


def test_an_error_of_somebody_elses_class_arrives_as_ours_with_its_name() -> None:
    class OddError(Exception):
        pass

    got = sent(OddError("so it is"))
    assert type(got) is LatticaError
    assert "OddError: so it is" in str(got)


def test_what_of_an_error_is_no_data_arrives_as_its_text() -> None:
    error = ValueError("bad", threading.Lock())
    assert sent(error).args[0] == "bad"
    assert "lock" in sent(error).args[1]


@pytest.mark.parametrize(
    "value", [threading.Lock(), print, lambda: None, Identity.generate(), object(), int, {1: open}]
)
def test_what_is_no_data_is_refused(value: object) -> None:
    with pytest.raises(CannotCrossError):
        sent(value)


def test_a_list_in_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(CannotCrossError):
        sent(endless)


def test_only_classes_of_ours_are_looked_up() -> None:
    data, _ = Values().encode(PEER)
    with pytest.raises(CannotCrossError, match="no class of ours"):
        Values().decode(data.replace(b"lattica.nat.base.keys.peer_id", b"os.path".ljust(29)))


def test_a_callback_is_what_the_reader_makes_of_its_number() -> None:
    assert sent(Callback(4, True), callback=lambda number, waits: (number, waits)) == (4, True)


def test_a_socket_that_is_handed_over_arrives_as_one() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            arrived = sent(("mirror", HandedSocket(theirs)))[1]
        with arrived:
            ours.sendall(b"abc")
            assert arrived.recv(3) == b"abc"
        assert ours.recv(1) == b""  # no other descriptor of it is left


def test_a_state_dict_is_read_where_it_lies() -> None:
    state: dict[str, Any] = {
        "w": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.array(5, dtype=np.int64),
        "empty": np.zeros((0, 2), dtype=np.float16),
        "raw": RawTensor("BF16", (2,), memoryview(b"abcd")),
    }
    shared = SharedState(state, copies=True)
    got = sent(shared)
    shared.close()
    assert list(got) == list(state)
    assert bytes(got["w"].data) == state["w"].tobytes()
    assert (got["w"].dtype, got["w"].shape) == ("F32", (3, 4))
    assert bytes(got["raw"].data) == b"abcd"
    assert bytes(got["b"].data) == state["b"].tobytes()


def test_a_state_dict_is_filled_from_there_but_for_what_is_missing() -> None:
    state: dict[str, Any] = {"w": np.zeros(3, np.float32), "kept": np.full(2, 7)}
    shared = SharedState(state, copies=False)
    sent(shared)["w"].data[:] = np.array([1, 2, 3], np.float32).tobytes()
    shared.load(("kept",))
    shared.close()
    assert state["w"].tolist() == [1, 2, 3]
    assert state["kept"].tolist() == [7, 7]


def test_descriptors_are_closed() -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    shared = SharedState({"w": np.zeros(3)}, copies=True)
    with pytest.raises(CannotCrossError):
        Values().encode([shared, object()])
    sent(shared)
    shared.close()
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 2  # the two maps have one each


def test_a_peer_id_is_one() -> None:
    assert isinstance(sent(PEER), PeerId)
