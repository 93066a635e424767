"""What docs/guides/programs.md and docs/guides/streams.md show runs as it is written there."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import importlib.util
import inspect
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lattica import Lattica, ListenError, LocalProtocolError, NodeConfig, StreamResetError
from lattica.content import events
from lattica.content.events import Progress
from lattica.facades.streams.blocking import BlockingStream
from lattica.nat.config import SwarmConfig
from tests.support.nets.nets import unused_port
from tests.support.pairs.connected import connected

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
LOCAL = NodeConfig(swarm=SwarmConfig(listen=("/ip4/127.0.0.1/tcp/0",)))
PATIENCE = 60.0


def example(document: str, heading: str) -> str:
    text = (GUIDES / document).read_text()
    section = re.split(r"^## ", text.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    return code


def run(folder: Path, document: str, heading: str, more: str, *arguments: str) -> str:
    """Run an example as a program of its own, and what uses it."""
    (folder / "example.py").write_text(example(document, heading))
    (folder / "program.py").write_text(f"import sys\nimport example\n{more}")
    result = subprocess.run(
        [sys.executable, "program.py", *arguments],
        cwd=folder,
        env={**os.environ, "LATTICA_LISTEN": "/ip4/127.0.0.1/tcp/0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def shout(stream: BlockingStream) -> None:
    while data := stream.receive_some():
        stream.send_all(data.upper())


def serve_sample(stream: BlockingStream) -> None:
    index = int.from_bytes(stream.receive_message(8), "big")
    stream.send_all(np.full((2, 8), index, np.float32).T)


@pytest.fixture
def server() -> Iterator[Lattica]:
    with Lattica(LOCAL) as server:
        server.handle("/shout/1.0.0", shout)
        server.handle("/sample/1.0.0", serve_sample)
        yield server


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_processes(method: str, server: Lattica, tmp_path: Path) -> None:
    more = (
        "if __name__ == '__main__':\n"
        "    from lattica import Lattica\n"
        "    with Lattica():  # the main program has one too\n"
        "        print(example.ask_by_workers(*sys.argv[1:]))\n"
    )
    said = run(tmp_path, "programs.md", "spawned", more, str(server.addrs[0]), method)
    assert said.strip() == str([b"HELLO"] * 2)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_data_loader(method: str, server: Lattica, tmp_path: Path) -> None:
    """In a pool, as DataLoader makes it; and in a DataLoader, where torch is installed."""
    has_torch = importlib.util.find_spec("torch") is not None
    more = """
def main(addr, method):
    samples = example.Samples(addr, 6)
    assert samples[3].tolist() == [3.0] * 16  # here, too
    from multiprocessing import get_context
    with get_context(method).Pool(2) as pool:
        print([row[0] for row in pool.map(samples.__getitem__, range(len(samples)))])
"""
    if has_torch:
        more += """
    from torch.utils.data import DataLoader
    loader = DataLoader(samples, 2, num_workers=2, multiprocessing_context=method)
    print([batch[:, 0].tolist() for batch in loader])
"""
    more += "\nif __name__ == '__main__':\n    main(*sys.argv[1:])\n"
    said = run(tmp_path, "programs.md", "DataLoader", more, str(server.addrs[0]), method)
    rows, *batches = said.splitlines()
    assert [float(number) for number in re.findall(r"\d\.0", rows)] == [0, 1, 2, 3, 4, 5]
    assert batches == (["[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]"] if has_torch else [])


def test_a_notebook_cell_that_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with Lattica(LOCAL) as other:
        address = str(other.addrs[0]).split("/p2p/")[0]
    monkeypatch.setenv("LATTICA_LISTEN", address)
    cell = example("programs.md", "Notebooks")
    names: dict[str, Any] = {}

    async def kernel() -> None:  # cells are run in a loop that goes on
        exec(cell, names)
        first = names["node"]
        exec(cell, names)
        assert first is not names["node"]
        with pytest.raises(ListenError, match=r"this program itself: .*notebook"):
            exec(cell.replace("node.close()", "pass"), names)

    asyncio.run(kernel())
    names["node"].close()


def test_a_forked_child_cannot_use_the_node_of_its_parent(server: Lattica) -> None:
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            server.peers()
        except LocalProtocolError as error:
            os.write(writer, str(error).encode())
        server.close()
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        assert "after a fork" in said.read()
    assert server.peers() == ()


@pytest.fixture
def child() -> Iterator[Callable[[], None]]:
    """Forks children that live until the end of the test, and have begun to."""
    reader, writer = os.pipe()
    begun, begins = os.pipe()
    children: list[int] = []

    def fork() -> None:
        if not (child := os.fork()):
            os.write(begins, b"!")  # what is closed in a child is closed by now
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        children.append(child)
        assert os.read(begun, 1) == b"!"

    yield fork
    for end in (writer, reader, begun, begins):
        os.close(end)
    for child in children:
        os.waitpid(child, 0)


@pytest.mark.parametrize("form", ["/tcp/{}", "/tcp/{}/ws", "/udp/{}/quic-v1/noise"])
def test_a_forked_child_keeps_neither_port_nor_connection(
    form: str, child: Callable[[], None]
) -> None:
    addr = "/ip4/127.0.0.1" + form.format(unused_port())
    config = NodeConfig(swarm=SwarmConfig(listen=(addr,)))
    with Lattica(NodeConfig(swarm=SwarmConfig(listen=()))) as client:
        with Lattica(config) as first:
            peer = client.connect(addr, timeout=PATIENCE)
            child()
            first.handle("/shout/1.0.0", shout)
            with client.open_stream(peer, "/shout/1.0.0", timeout=PATIENCE) as stream:
                stream.send_all(b"still here")
                assert stream.receive_exactly(10, timeout=PATIENCE) == b"STILL HERE"
        with Lattica(config) as second:
            assert client.connect(addr, timeout=PATIENCE) == second.peer_id


def test_a_forked_child_keeps_no_forwarded_port(server: Lattica, child: Callable[[], None]) -> None:
    port = unused_port()
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        service.listen()
        server.expose(service.getsockname()[1], name="service", to="anyone")
        for _ in range(2):
            with Lattica(LOCAL) as client:
                peer = client.connect(server.addrs[0], timeout=PATIENCE)
                client.forward(peer, "service", local=port, timeout=PATIENCE)
                child()
                with socket.create_connection(("127.0.0.1", port)), service.accept()[0]:
                    pass


def test_a_web_server(server: Lattica, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    (tmp_path / "example.py").write_text(example("programs.md", "Web servers"))
    command = [sys.executable, "-m", "uvicorn", "example:app", "--host", "127.0.0.1", "--port", "0"]
    environment = {**os.environ, "LATTICA_LISTEN": "/ip4/127.0.0.1/tcp/0"}
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        lines = []
        url = ""
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                url = found[0]
                break
        try:
            assert url, lines
            peer = urllib.parse.quote(str(server.addrs[0]))
            with urllib.request.urlopen(f"{url}/shout/hello?peer={peer}", timeout=PATIENCE) as page:
                assert page.read() == b'"HELLO"'
            with pytest.raises(urllib.error.HTTPError, match="502"):
                urllib.request.urlopen(f"{url}/shout/hello?peer=nobody", timeout=PATIENCE)
        finally:
            process.terminate()
        rest = process.stderr.read()
    assert "Traceback" not in rest


def test_progress(server: Lattica, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(example("programs.md", "Progress"), names)
    told: list[Any] = []

    def progress(event: Any) -> None:
        names["show"](event)
        told.append(event)

    file = tmp_path / "file"
    file.write_bytes(os.urandom(100_000))
    ticket = server.publish(file, progress=progress)
    with Lattica(LOCAL) as client:
        for _ in range(2):  # and once more, when it is there
            client.fetch(ticket, tmp_path / "out", progress=progress)
    assert all(isinstance(event, Progress) for event in told)
    assert {"hashing", "starting", "checking", "fetching"} <= {event.phase for event in told}
    assert told[-1].fraction == 1.0
    assert "fetching: 100000 of 100000 bytes" in capsys.readouterr().out


def test_the_table_of_progress() -> None:
    text = (GUIDES / "programs.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\|$", text, re.M)
    documented = {name: (phase, re.findall(r"`(\w+)`", more)) for name, phase, more in rows}
    common = {field.name for field in dataclasses.fields(Progress)}
    assert documented == {
        name: (
            kind.phase,
            [field.name for field in dataclasses.fields(kind) if field.name not in common],
        )
        for name, kind in vars(events).items()
        if inspect.isclass(kind) and issubclass(kind, Progress) and kind is not Progress
    }


@pytest.mark.parametrize("is_early", [True, False])
async def test_an_early_answer(is_early: bool, autojump_clock: object) -> None:
    """The example in docs/guides/streams.md, with a peer that reads all and one that does not."""
    blocks = re.findall(r"^```python\n(.*?)^```", (GUIDES / "streams.md").read_text(), re.M | re.S)
    (code,) = (block for block in blocks if "answer = " in block)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    async with connected() as (a, b):
        stream = a.open()
        names: dict[str, Any] = {
            "stream": stream,
            "question": b"x" * 100,
            "limit": 1000,
            "StreamResetError": StreamResetError,
        }
        import trio

        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                theirs = await b.accept()
                assert await theirs.receive_exactly(10 if is_early else 100) == b"x" * (
                    10 if is_early else 100
                )
                await theirs.send_message(b"enough")
                await theirs.aclose()

            nursery.start_soon(answer)
            work = eval(compile(code, "streams.md", "exec", flags=flags), names)  # noqa: S307
            await work
        assert names["answer"] == b"enough"
