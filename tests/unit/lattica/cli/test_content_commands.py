"""What `lattica fetch` and `diff` make of what they are given."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path
from typing import cast

import pytest
from typer.testing import CliRunner

from lattica import load_config
from lattica.cli import app
from lattica.cli.content.by_node import addrs_where_it_serves, say_name
from lattica.content import Cid, Ticket
from lattica.content.names.record import NameRef
from lattica.daemon.api.client import NodeClient
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.nat.base.keys.identity import Identity

NODE = Identity.generate().peer_id
OTHER = Identity.generate().peer_id
SERVED = Cid(bytes(range(32)))
ELSEWHERE = Cid(bytes(32))
ADDR = f"/ip4/127.0.0.1/tcp/4001/p2p/{NODE}"


class RunningNode:
    """A node that serves SERVED."""

    def status(self) -> pb.NodeStatus:
        served = [pb.Publication(cid=str(SERVED))]
        return pb.NodeStatus(peer_id=str(NODE), addrs=[ADDR], publications=served)


@pytest.mark.parametrize(
    ("ref", "is_its_own"),
    [
        (SERVED, True),
        (ELSEWHERE, False),
        (Ticket(SERVED, NODE, ()), True),
        (Ticket(SERVED, OTHER, ()), False),
        (NameRef.parse(f"{NODE}/model"), True),
        (NameRef.parse(f"{OTHER}/model"), False),
    ],
)
def test_what_the_running_node_serves_is_fetched_from_it(
    ref: Cid | Ticket | NameRef, is_its_own: bool
) -> None:
    addrs = addrs_where_it_serves(cast("NodeClient", RunningNode()), ref)
    assert addrs == ((ADDR,) if is_its_own else ())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("fetch", str(SERVED), "--listen", "/ip4/127.0.0.1/tcp/0"), "--listen"),
        (("publish", ".", "--relay", ADDR, "--ephemeral"), "--relay and --ephemeral"),
        (("publish", ".", "--repo", "a/b", "--ephemeral"), "--ephemeral"),
        (("publish", ".", "--ephemeral", "--no-daemon"), None),
    ],
)
def test_what_a_node_that_runs_cannot_do_is_said(
    arguments: tuple[str, ...],
    told: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began: list[object] = []
    for module in ("fetch", "publish"):
        monkeypatch.setattr(f"lattica.cli.content.{module}.run", lambda *given: began.append(given))
    command = [*arguments, "--data-dir", str(tmp_path)]
    # Nothing is said where no node runs.
    assert "is not used" not in CliRunner().invoke(app, command).output
    path = load_config(overrides={"data_dir": str(tmp_path)}).node.socket_in(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        result = CliRunner().invoke(app, command)
    lines = [line for line in result.output.splitlines() if "is not used" in line]
    start = "lattica: the node that runs here is not used: this command starts its own, for "
    assert lines == ([] if told is None else [start + told])
    assert len(began) == 2


@pytest.mark.parametrize("ref", [str(SERVED), str(Ticket(SERVED, OTHER, ())), "crdt:doc/chat@7"])
def test_only_what_leads_elsewhere_one_day_is_watched(ref: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["fetch", ref, "--watch", "--data-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "can be followed" in result.output


@pytest.mark.parametrize("arguments", [("nothing", "."), (".", "nothing")])
def test_a_path_that_diff_does_not_find_is_called_one(arguments: tuple[str, str]) -> None:
    result = CliRunner().invoke(app, ["diff", *arguments])
    assert result.exit_code == 2
    assert "'nothing' is no file or directory here" in result.output


@pytest.mark.parametrize(
    "arguments", [("publish", "."), ("publish", "file"), ("store", "add", ".")]
)
def test_a_current_directory_that_was_deleted_is_an_error_of_one_line(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = CliRunner().invoke(app, [*arguments, "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.strip().endswith("change to one that does")


@pytest.mark.parametrize("addr", [ADDR, ADDR.partition("/p2p/")[0]])
def test_how_to_fetch_by_name_can_be_pasted(addr: str, capsys: pytest.CaptureFixture[str]) -> None:
    say_name(str(NODE), [addr], "my model")
    words = shlex.split(capsys.readouterr().err.partition(": ")[2])
    assert words == ["lattica", "fetch", f"{ADDR}/my model", "-o", "DIR"]
    assert NameRef.parse(words[2]).name == "my model"


def test_a_door_that_could_find_none_of_its_publishers_says_what_to_name() -> None:
    refused = CliRunner().invoke(app, ["hf-door", str(NODE)], env={"LATTICA_DISCOVERY__MDNS": ""})
    assert refused.exit_code == 1
    assert "--connect" in refused.stderr
