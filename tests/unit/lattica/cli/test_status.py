"""What `status`, `paths` and `top` say."""

from __future__ import annotations

import io
from contextlib import nullcontext
from typing import Any

import pytest
from rich.console import Console

from lattica.cli import status as commands
from lattica.cli.status import duration, path_lines, peer_line, status_lines, top_page
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.daemon.api.status import plain

PEER = "12D3KooWABtzK3vbb5sm5EZHn7696DZNanWNY9kp2G5y8H5Xevpv"
STATUS = pb.NodeStatus(
    peer_id="12D3KooWN7H3",
    pid=7,
    uptime_seconds=3725,
    addrs=["/ip4/127.0.0.1/tcp/1"],
    announcing=["a relay has not answered"],
    peers=[
        pb.Peer(
            peer_id=PEER,
            agent="agent[red]\x1b[2J",
            path="relayed",
            relay="12D3KooWRelay",
            next_attempt_seconds=90,
            connections=[
                pb.Connection(path="relayed", direction="outbound", streams=2, cipher="aes")
            ],
            strategies=[
                pb.Strategy(name="dcutr", ok=False, reason="no answer", applicable=True),
                pb.Strategy(name="ice", applicable=False),
            ],
        )
    ],
    publications=[pb.Publication(name="model", files=1, bytes=2048)],
    transfers=[
        pb.Transfer(kind="fetch", name="big", phase="fetching", bytes_done=1, bytes_total=4)
    ],
    documents=[pb.Document(name="open", open=True), pb.Document(name="closed")],
    topics=[pb.Topic(name="news", peers=3)],
    dht=pb.Dht(
        mode="server",
        storage="disk",
        peers=12,
        network_size=950.4,
        network_size_error=0.12,
        reprovide_due=5,
        reprovide_lag_seconds=7200,
    ),
    relay=pb.Relay(reservations=1, max_reservations=8, circuits=2, max_circuits=16),
)


def test_a_page_for_a_person() -> None:
    text = "\n".join(status_lines(plain(STATUS)))
    for part in (
        "up 1 h 2 min",
        "waiting   a relay has not answered",
        "1: 0 direct, 1 relayed",
        "model: 1 file, 2.0 KiB",
        "fetch big: fetching 25% of 4 B",
        "document  open",
        "news: 3 peers",
        "server, 12 peers of about 950 (± 12%), ",
        "provided, 5 due for 2 h",
        "1 of 8 reservations, 2 of 16 circuits",
    ):
        assert part in text
    assert "closed" not in text


def test_of_a_node_that_has_just_begun() -> None:
    shown = plain(pb.NodeStatus(peer_id="12D3KooWN7H3"))
    assert len(status_lines(shown)) == 3
    Console(file=io.StringIO()).print(top_page(shown))


def test_why_there_is_no_better_path() -> None:
    shown: Any = plain(STATUS)
    [peer] = shown["peers"]
    text = "\n".join(path_lines(peer))
    for part in (
        "relayed through 12D3KooWRelay, in use, outbound, ?",
        "dcutr failed: no answer",
        "ice cannot work",
        "next attempt in 1 min 30 s",
    ):
        assert part in text


def test_what_peers_say_of_themselves_is_no_markup_and_moves_no_cursor() -> None:
    output = io.StringIO()
    shown = plain(STATUS)
    Console(file=output, width=200).print(top_page(shown))
    assert "agent[red]" in output.getvalue()
    assert "\x1b" not in output.getvalue()


def test_an_id_can_be_copied_from_a_narrow_terminal() -> None:
    shown: Any = plain(STATUS)
    [line] = map(peer_line, shown["peers"])
    assert line.split()[:2] == [PEER, "relayed"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min 59 s"),
        (7200, "2 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_top_shows_each_look_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    def look(_: object) -> dict[str, Any]:
        shown.append(capsys.readouterr().out)
        return plain(STATUS)

    monkeypatch.setattr(commands, "_client", lambda _: nullcontext())
    monkeypatch.setattr(commands, "_status", look)
    ctx: Any = None
    commands.top_command(ctx, interval=0.0, count=3)
    shown.append(capsys.readouterr().out)
    assert [text.count("12D3KooWN7H3") for text in shown] == [0, 1, 1, 1]
