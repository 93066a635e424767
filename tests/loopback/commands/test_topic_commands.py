"""`lattica topic pub` and `lattica topic sub` as processes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.loopback.commands.commands import (
    LATTICA,
    LISTEN,
    TIMEOUT,
    WAIT,
    address_of,
    environment,
    running,
)

ARGS = ("--listen", LISTEN)


def publish(
    data_dir: Path, *argv: str, said: bytes = b"", wait: str = WAIT
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*LATTICA, "topic", "pub", "--wait", wait, *argv],
        input=said,
        capture_output=True,
        env=environment(data_dir),
        timeout=TIMEOUT,
        check=False,
    )


def test_what_is_published_is_printed(tmp_path: Path) -> None:
    with running(tmp_path, "topic", "sub", "news", *ARGS, "--count", "4", "--ephemeral") as sub:
        ready = sub.said("ready")
        assert ready["topic"] == "news"
        address = ready["addrs"][0]
        done = publish(tmp_path, "news", "hello", "wörld", "--connect", address, "--json")
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines[0] == {"event": "published", "topic": "news", "size": 5, "peers": 1}
        assert len(lines) == 2
        first, second = sub.said("message"), sub.said("message")
        assert (first["data"], second["data"]) == ("hello", "wörld")
        assert first["source"] == second["source"] == first["via"]
        done = publish(tmp_path, "news", "--connect", address, said=b"a line\n\xff\n")
        assert done.returncode == 0, done.stderr
        assert sub.said("message")["data"] == "a line"
        assert sub.said("message")["data_base64"] == "/w=="
        assert sub.process.wait(TIMEOUT) == 0


def test_a_subscriber_whose_output_nobody_reads_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    """Its node stopped with it once the pipe was full."""
    command = [*LATTICA, "topic", "sub", "news", *ARGS, "--ephemeral", "--count", "60"]
    said = (b"x" * 8000 + b"\n") * 30
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path)
    ) as subscriber:
        address = address_of(subscriber)
        for _ in range(2):  # the second one connects to a node that nobody has read from
            done = publish(tmp_path, "news", "--connect", address, said=said)
            assert done.returncode == 0, done.stderr
        read, problems = subscriber.communicate(timeout=TIMEOUT)
        assert (read, problems) == (2 * said, b"")
        assert subscriber.returncode == 0


def test_whoever_publishes_to_nobody_is_told(tmp_path: Path) -> None:
    done = publish(tmp_path, "news", "hello", *ARGS, wait="0.2")
    assert done.returncode == 1
    assert b"0 connected peers have subscribed to 'news'" in done.stderr


def test_who_knows_the_same_node_finds_each_other(tmp_path: Path) -> None:
    with running(tmp_path, "node", *ARGS, "--ephemeral") as node:
        hub = node.said("ready")["addrs"][0]
        known = ("--connect", hub)
        with running(tmp_path, "topic", "sub", "news", *ARGS, *known, "--ephemeral") as sub:
            sub.said("ready")
            done = publish(tmp_path, "news", "hello", *ARGS, *known)
            assert done.returncode == 0, done.stderr
            assert sub.said("message")["data"] == "hello"
