"""`lattica fetch --watch` by the node that runs here: what it makes of nodes that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from lattica.cli.content.following_by_node import follow_by
from lattica.content import Cid, FetchOptions, FetchResult
from lattica.daemon.api.client import NodeClient
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.errors import DaemonGoneError, LatticaError, NameNotFoundError, StorageError

FIRST, SECOND = (str(Cid(bytes(31) + bytes([number]))) for number in (1, 2))


def version(cid: str, bytes_fetched: int = 1) -> pb.FetchProgress:
    done = pb.FetchDone(cid=cid, name="model", bytes_total=1, bytes_fetched=bytes_fetched)
    return pb.FetchProgress(phase="done", done=done)


class OneNode:
    """What it says, and the error with which it ends."""

    def __init__(self, *said: pb.FetchProgress | LatticaError, ends: bool = False) -> None:
        self.socket = Path("node.sock")
        self._said = said
        self._ends = ends
        self.connected: list[str] = []
        self.asked = 0
        self.is_closed = False

    def __enter__(self) -> OneNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.is_closed = True

    def status(self) -> None:
        if self._ends:
            raise DaemonGoneError("the daemon ends")

    def connect(self, target: str) -> None:
        self.connected.append(target)

    @contextmanager
    def follow(self, name: str, out: Path, **_: object) -> Iterator[Iterator[pb.FetchProgress]]:
        assert (name, out) == ("peer/model", Path("out"))
        self.asked += 1
        yield self._responses()

    def _responses(self) -> Iterator[pb.FetchProgress]:
        for each in self._said:
            if isinstance(each, LatticaError):
                self._said = self._said[self._said.index(each) + 1 :]
                raise each
            yield each


def follow(first: OneNode) -> list[str]:
    """Until an error that ends it; the versions that were shown."""
    shown: list[FetchResult] = []
    with pytest.raises(SystemExit) as ended:
        follow_by(
            cast("NodeClient", first),
            "peer/model",
            Path("out"),
            None,
            FetchOptions(),
            ["addr"],
            shown.append,
        )
    assert ended.value.code == 1
    return [str(result.cid) for result in shown]


def test_the_next_node_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = OneNode(version(FIRST), DaemonGoneError("it has ended"))
    ending = OneNode(ends=True)
    last = OneNode(
        NameNotFoundError("nowhere yet"),
        version(FIRST, bytes_fetched=0),
        pb.FetchProgress(phase="failed", error="nobody has it"),
        version(SECOND),
        StorageError("the disk is full"),
    )
    nodes = iter([ending, None, last])

    def next_node(socket: Path) -> OneNode:
        assert socket == Path("node.sock")
        node = next(nodes)
        if node is None:
            raise DaemonGoneError("no node listens")
        return node

    slept: list[float] = []
    monkeypatch.setattr("lattica.daemon.api.client.NodeClient", next_node)
    monkeypatch.setattr("lattica.cli.content.following_by_node.sleep", slept.append)
    assert follow(first) == [FIRST, SECOND]
    assert first.is_closed
    assert ending.is_closed
    assert last.is_closed
    assert not ending.asked
    assert (last.asked, last.connected) == (2, ["addr", "addr"])
    assert len(slept) == 4
    assert capsys.readouterr().err.splitlines() == [
        "lattica: the node that runs here has ended; this goes on when one runs again",
        "lattica: a node runs here again",
        "not fetched yet: nowhere yet",
        "not fetched yet: nobody has it",
        "lattica: error: the disk is full",
    ]


def test_a_name_that_leads_nowhere_at_first_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert follow(OneNode(NameNotFoundError("the name leads nowhere"))) == []
    assert capsys.readouterr().err == "lattica: error: the name leads nowhere\n"
