"""`lattica expose` and `lattica forward` as processes, with real clients and services."""

from __future__ import annotations

import shlex
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lattica.nat.base.keys.identity import Identity
from tests.loopback.commands.commands import LISTEN, TIMEOUT, lattica, running
from tests.support.nets.nets import unused_port


def all_of(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


@contextmanager
def shouting() -> Iterator[int]:
    """A service that answers, in capitals, when it has read to the end; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.sendall(all_of(client).upper())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def ask(port: int, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        return all_of(client)


def port_of(local: str) -> int:
    return int(local.rpartition(":")[2])


def test_the_printed_command_works_and_outlives_a_kill(tmp_path: Path) -> None:
    with shouting() as port:
        listen = f"/ip4/127.0.0.1/tcp/{unused_port()}"
        expose = ("expose", f"web={port}", f"db={port}", "--listen", listen)
        with running(tmp_path / "a", *expose) as exposing:
            ready = exposing.said("ready")
            assert [p["port"] for p in ready["exposed"]] == ["web", "db"]
            command = shlex.split(ready["command"])
            assert command[0] == "lattica"
            forward = running(tmp_path / "b", *command[1:], "--listen", LISTEN)
            with forward as forwarding:
                forwards = forwarding.said("ready")["forwards"]
                assert [f["port"] for f in forwards] == ["web", "db"]
                for each in forwards:
                    assert ask(port_of(each["local"]), b"hello") == b"HELLO"
                    told = exposing.said("connection_closed")
                    assert told["port"] == each["port"]
                    assert (told["bytes_to_peer"], told["bytes_from_peer"]) == (5, 5)
                    assert told["reason"] == "closed"
                    assert told["path"] == "direct-tcp"
                exposing.process.kill()
                exposing.process.communicate()
                with running(tmp_path / "a", *expose) as again:
                    assert again.said("ready")["key"] == ready["key"]
                    assert ask(port_of(forwards[0]["local"]), b"again") == b"AGAIN"
                    assert again.stop(signal.SIGTERM) == 0
                assert forwarding.stop() == 0


def test_only_the_peer_that_is_named(tmp_path: Path) -> None:
    keys = [tmp_path / name / "identity.key" for name in ("b", "c")]
    allowed, _ = (str(Identity.load_or_create(_made(key)).peer_id) for key in keys)
    with (
        shouting() as port,
        running(
            tmp_path / "a", "expose", str(port), "--name", "s", "--to", allowed, "--listen", LISTEN
        ) as exposing,
    ):
        ready = exposing.said("ready")
        assert ready["key"] is None
        assert "--key" not in ready["command"]
        command = shlex.split(ready["command"])[1:]
        local = unused_port()
        more = ("--local", str(local), "--listen", LISTEN)
        with running(tmp_path / "b", *command, *more) as forwarding:
            forwarding.said("ready")
            assert ask(local, b"a") == b"A"
            assert forwarding.said("connection_closed")["peer_id"] == ready["peer_id"]
            assert forwarding.stop() == 0
        # Another one is told so at once.
        with running(tmp_path / "c", *command, *more) as forwarding:
            _, errors = forwarding.process.communicate(timeout=TIMEOUT)
            assert forwarding.process.returncode == 1
            assert "may not connect" in errors
            assert len(errors.splitlines()) == 1


def _made(path: Path) -> Path:
    path.parent.mkdir()
    return path


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["expose"], "Missing argument"),
        (["expose", "x"], "is not a port"),
        (["expose", "70000"], "from 1 to 65535"),
        (["expose", "unix:/x"], "name"),
        (["expose", "a b=80"], "no name"),
        (["expose", "80", "80"], "exposed already"),
        (["expose", "80", "81", "--name", "x"], "--name is for one"),
        (["expose", "80", "--to", "x"], "peer ID"),
        (["forward", "x", "80"], "peer ID"),
        (["forward", "/ip4/127.0.0.1/tcp/1", "80"], "/p2p/ID"),
    ],
)
def test_wrong_arguments(tmp_path: Path, argv: list[str], error: str) -> None:
    result = lattica(tmp_path, *argv, *(["--listen", LISTEN] if len(argv) > 1 else []))
    assert result.exit_code in (1, 2)
    assert error in " ".join(result.stderr.replace("│", " ").split())
