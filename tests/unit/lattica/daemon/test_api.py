"""What the local API is made of: its table, its values, its errors."""

from __future__ import annotations

import builtins
import inspect
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica import errors
from lattica.daemon.api.client import NodeClient
from lattica.daemon.api.failures import error_of, status_of
from lattica.daemon.api.grpc_needed import import_grpc
from lattica.daemon.api.methods import Methods
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.daemon.api.service_table import methods
from lattica.daemon.api.status import plain
from lattica.daemon.api.values import pack, unpack
from lattica.errors import (
    ContentNotFoundError,
    DaemonError,
    DialError,
    LatticaError,
    LocalProtocolError,
    ResourceLimitError,
)
from lattica.rpc.errors import NotFoundError, RpcError, StatusCode

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_every_method_of_the_service_is_served_and_can_be_called() -> None:
    table = [*methods()]
    assert len(table) > 20
    for spec in table:
        served = getattr(Methods, spec.attribute)
        assert inspect.iscoroutinefunction(served)
        assert ("emit" in inspect.signature(served).parameters) == spec.streams
        assert callable(getattr(NodeClient, spec.attribute))


@given(VALUES)
@settings(max_examples=50)
def test_values_come_back(value: object) -> None:
    assert unpack(pack(value)) == value


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x01", b"\x01\x02", b"\xd4\x05\x00"])
def test_bytes_that_are_no_value(data: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        unpack(data)


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**70, 1j])
def test_values_that_are_no_plain_data(value: object) -> None:
    with pytest.raises(LocalProtocolError):
        pack(value)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_of_the_node_is_raised_in_the_client(name: str) -> None:
    kind = getattr(errors, name)
    if not issubclass(kind, LatticaError):
        return
    try:
        made = kind("why")
    except TypeError:  # made of something else
        made = kind.__new__(kind)
        Exception.__init__(made, "why")
        made.__dict__.update(attempts=())
    code, _, named = status_of(made)
    assert code is not StatusCode.OK
    assert (code is StatusCode.INTERNAL) == (name == "InternalError")  # that of a call
    again = error_of(int(code), "why", named)
    assert isinstance(again, LatticaError)
    assert issubclass(kind, type(again))
    assert str(again) == "why"


def test_errors_of_calls_and_others() -> None:
    code, message, name = status_of(NotFoundError("no such"))
    again = error_of(int(code), message, name)
    assert type(again) is NotFoundError
    assert isinstance(again, RpcError)
    assert type(error_of(*status_of(TimeoutError("late")))) is TimeoutError
    assert type(error_of(*status_of(ContentNotFoundError("x")))) is ContentNotFoundError
    # One that is made of something else becomes the nearest that is not.
    assert type(error_of(*status_of(DialError("peer", [])))) is LatticaError
    # Of a defect nobody is told more.
    assert status_of(KeyError("secret")) == (
        StatusCode.INTERNAL,
        "internal error; see the node's log",
        "",
    )
    # But that there is no memory or thread for it is no defect.
    code, message, name = status_of(RuntimeError("can't start new thread"))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(error_of(int(code), message, name), ResourceLimitError)
    # Without a class it is gRPC's own, and its text says nothing.
    silent = error_of(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "")
    assert type(silent) is TimeoutError
    assert "has not answered" in str(silent)
    # Names that are none of ours are no classes of ours.
    for name in ("SystemExit", "LatticaError.__init__", "annotations", ""):
        assert type(error_of(2, "text", name)) is DaemonError


def test_a_message_as_json() -> None:
    status = pb.NodeStatus(
        peer_id="p", peers=[pb.Peer(peer_id="q", connections=[pb.Connection(streams=2)])]
    )
    shown: Any = plain(status)
    assert shown["dht"] is None
    assert shown["topics"] == []
    assert shown["peers"][0]["rtt_seconds"] is None
    assert shown["peers"][0]["connections"][0]["streams"] == 2


def test_without_grpcio_an_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **keywords: Any) -> Any:
        if name == "grpc":
            raise ModuleNotFoundError("no", name="grpc")
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DaemonError, match=r"pip install 'lattica-stack\[grpc\]'"):
        import_grpc()


def test_without_grpcio_a_client_that_finds_no_node_says_what_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DaemonError, match=r"by `lattica node`$"):
        NodeClient(tmp_path / "node.sock")
    monkeypatch.setattr("lattica.daemon.api.client.has_grpc", lambda: False)
    with pytest.raises(DaemonError, match=r"only with grpcio: pip install 'lattica-stack\[grpc\]'"):
        NodeClient(tmp_path / "node.sock")
