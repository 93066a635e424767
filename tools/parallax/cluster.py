"""A scheduler and two workers of Parallax in a network lab."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import trio

from tools.netlab.lab.lab import Lab, open_lab
from tools.netlab.lab.programs import LATTICA, Running
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.topology import Host, Link, Router
from tools.parallax.packages import Environment

HERE = Path(__file__).parent
Network = Literal["loopback", "relay"]

MODEL = "Qwen/Qwen3-8B"
LAYERS = 36
HTTP_PORT = 3001
P2P_PORT = 4001
NAT = "symmetric-random"
START_TIMEOUT = 120.0
"""Seconds that a program has until it says what is waited for."""
POLL = 0.05
"""Seconds."""
PRIVATE_TMP = (
    *("unshare", "--mount", "sh", "-ec"),
    "mount -t tmpfs tmpfs /mnt; mkdir /mnt/upper /mnt/work; "
    "mount -t overlay overlay -o lowerdir=/tmp,upperdir=/mnt/upper,workdir=/mnt/work /tmp; "
    'cd "$PWD"; exec "$0" "$@"',
)
"""Runs a command with a /tmp of its own, in which it sees the host's: Parallax deletes there what
looks like state of the original, and a worker takes weights for loaded that another has there."""
UNLIMITED = {
    f"LATTICA_NAT__RELAY_SERVER__LIMITS__{name}": "0"
    for name in (
        *("FOR_STRANGERS__DATA", "FOR_STRANGERS__DURATION", "FOR_STRANGERS__RATE"),
        "STRANGERS_RATE",
    )
}
"""A relay of the cluster's own, as one with its workers on the allow-list is."""
_LOGGED = re.compile(r"^(\w{3} \d{2} \d{2}:\d{2}:\d{2}\.\d{3}) .*?(\S+:\d+) +(.*)$", re.MULTILINE)
_COLOR = re.compile("\x1b\\[[0-9;]*m")
WORKERS = ("worker-0", "worker-1")


def worker_port(name: str) -> int:
    """Where a worker's node listens (TCP)."""
    return P2P_PORT + 10 + WORKERS.index(name)


class ClusterError(Exception):
    """The cluster cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of Parallax's log."""

    time: float
    text: str


@dataclass(slots=True)
class Cluster:
    """Made by :func:`open_cluster`."""

    lab: Lab
    network: Network
    checkout: Path
    environment: Environment
    relays: tuple[str, ...] = ()
    scheduler_id: str = ""
    running: dict[str, Running] = field(default_factory=dict)

    def host(self, name: str) -> str:
        """Where a program runs."""
        if self.network == "loopback":
            return "here"
        return "relay" if name == "trainer" else "scheduler" if name == "chat" else name

    @property
    def scheduler_addr(self) -> str:
        """What workers are told."""
        if self.relays:
            return f"{self.relays[0]}/p2p-circuit/p2p/{self.scheduler_id}"
        return f"/ip4/127.0.0.1/tcp/{P2P_PORT}/p2p/{self.scheduler_id}"

    async def start(self, name: str, *arguments: str) -> Running:
        """Run a file of the checkout, or one of ours, in a folder of its own."""
        folder = self.lab.folder / name
        tools = folder / "bin"
        tools.mkdir(parents=True)
        frontend = tools / "vllm-rs"
        frontend.write_text(
            f'#!/bin/sh\nexec {self.environment.python} {HERE}/stubs/stub_frontend.py "$@"\n'
        )
        frontend.chmod(0o755)
        env = {
            "PATH": f"{tools}:{os.environ.get('PATH', os.defpath)}",
            "PYTHONPATH": f"{HERE / 'stubs'}:{self.checkout / 'src'}",
            "PARALLAX_PACKAGES": str(self.environment.packages or ""),
            "LATTICA_NAT__PORT_MAPPING__ENABLED": "false",
            "https_proxy": "http://127.0.0.1:9",  # nothing listens: GitHub is not asked for news
            "no_proxy": "127.0.0.1,localhost",
        }
        command = [*PRIVATE_TMP, str(self.environment.python), *arguments]
        running = await self.lab.start(self.host(name), command, name=name, env=env)
        self.running[name] = running
        return running

    async def start_scheduler(self) -> None:
        relayed = ["--relay-servers", *self.relays, "--is-local-network", ""] if self.relays else []
        await self.start(
            "scheduler",
            *(str(self.checkout / "src/backend/main.py"), "--model-name", MODEL),
            *("--init-nodes-num", str(len(WORKERS)), "--host", "127.0.0.1"),
            *("--port", str(HTTP_PORT), "--tcp-port", str(P2P_PORT), "--udp-port", str(P2P_PORT)),
            *("--enable-weight-refit", "True", "--weight-refit-mode", "cpu", *relayed),
        )
        logged = await self.wait_logged("scheduler", "Stored scheduler peer id: ")
        self.scheduler_id = logged.text.rpartition(" ")[2]

    async def start_worker(self, name: str) -> None:
        joining = self._joining("launch.py", HTTP_PORT + 10 + WORKERS.index(name))
        await self.start(name, *joining, "--tcp-port", str(worker_port(name)))

    async def start_chat(self) -> int:
        """Parallax's chat server, which is a peer, too; its port."""
        port = HTTP_PORT + 20
        joining = self._joining("launch_chat.py", port + 1)
        await self.start("chat", *joining, "--node-chat-port", str(port))
        await self.wait_logged("chat", "Lattica built successfully")
        return port

    def _joining(self, program: str, port: int) -> list[str]:
        script = str(self.checkout / "src/parallax" / program)
        relayed = ["--relay-servers", *self.relays] if self.relays else []
        addr = self.scheduler_addr
        return [
            script,
            "--scheduler-addr",
            addr,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            *relayed,
        ]

    async def start_trainer(self) -> None:
        """A node that is connected to all, and has weights for them."""
        if self.relays:
            protocol = f"/{self.scheduler_id}"
            addrs = [f"{self.relays[0]}/p2p-circuit" for _ in WORKERS]
        else:
            protocol = ""
            addrs = [f"/ip4/127.0.0.1/tcp/{worker_port(each)}" for each in WORKERS]
        peers = [f"{at}/p2p/{self.worker_id(w)}" for at, w in zip(addrs, WORKERS, strict=True)]
        script = str(HERE / "trainer.py")
        await self.start("trainer", script, str(LAYERS), protocol, self.scheduler_addr, *peers)

    async def interrupt(self, name: str) -> None:
        """Ctrl-C at a worker's P2P server alone: its parent would end it before it can leave."""
        command = [str(self.environment.python), str(HERE / "interrupt.py"), str(worker_port(name))]
        status, _, errors = await self.lab.run(self.host(name), command)
        if status:
            raise ClusterError(errors.decode())

    # --- what they say ---

    def worker_id(self, name: str) -> str:
        """The peer ID of a worker that has joined."""
        text = next(e.text for e in self.logged(name) if "Join scheduler response" in e.text)
        return text.partition("'node_id': '")[2].partition("'")[0]

    def logged(self, name: str) -> list[Logged]:
        """The lines of a program's log."""
        file = self.lab.folder / name / "stdout.log"
        text = _COLOR.sub("", file.read_text(errors="replace")) if file.exists() else ""
        year = datetime.now().year
        return [
            Logged(datetime.strptime(f"{year} {when}", "%Y %b %d %H:%M:%S.%f").timestamp(), message)
            for when, _, message in _LOGGED.findall(text)
        ]

    async def wait_logged(self, name: str, text: str) -> Logged:
        """The first line that has `text`."""
        with trio.move_on_after(START_TIMEOUT):
            while not self.running[name].closed.is_set():
                found = next((each for each in self.logged(name) if text in each.text), None)
                if found is not None:
                    return found
                await trio.sleep(POLL)
        raise ClusterError(f"{name} has not said {text!r}:\n{self.last_words(name)}")

    async def wait_event(self, name: str, event: str) -> dict[str, Any]:
        """The next thing of this kind that a stub says."""
        running = self.running[name]
        with trio.move_on_after(START_TIMEOUT):
            _, said = await running.wait_event(lambda each: each.get("event") == event)
            return said
        raise ClusterError(f"{name} has not said {event!r}:\n{self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The end of what a program wrote."""
        folder = self.lab.folder / name
        texts = [
            (folder / f"{each}.log").read_text(errors="replace") for each in ("stdout", "stderr")
        ]
        return "\n".join(line for text in texts for line in text.splitlines()[-15:])

    # --- what is asked ---

    async def ask(
        self, path: str, body: object = None, *, port: int = HTTP_PORT, words: int = 0
    ) -> dict[str, Any]:
        """Ask the scheduler's HTTP API, or another's, as :mod:`tools.parallax.ask` does."""
        text = "" if body is None else json.dumps(body)
        url = f"http://127.0.0.1:{port}{path}"
        command = [str(self.environment.python), str(HERE / "ask.py"), url, text, str(words)]
        status, out, errors = await self.lab.run(self.host("scheduler"), command)
        if status:
            raise ClusterError(f"{path}: {errors.decode().strip().splitlines()[-1]}")
        answer: dict[str, Any] = json.loads(out)
        return answer

    async def nodes(self) -> list[dict[str, Any]]:
        """The workers, as the scheduler has them."""
        answer = json.loads((await self.ask("/cluster/status_json"))["lines"][0])
        found: list[dict[str, Any]] = answer["data"]["node_list"]
        return found


def scenario_for(network: Network) -> Scenario:
    """One host; or a public relay, and all others behind NATs that nobody gets through."""
    if network == "loopback":
        return Scenario(name="parallax", hosts=(Host("here"),))
    inside: Sequence[str] = ("scheduler", *WORKERS)
    return Scenario(
        name="parallax",
        hosts=(Host("relay"), *(Host(name, behind=f"{name}-nat") for name in inside)),
        routers=tuple(Router(f"{name}-nat", nat=NAMES[NAT], link=Link()) for name in inside),
    )


@asynccontextmanager
async def open_cluster(
    network: Network, checkout: Path, environment: Environment
) -> AsyncIterator[Cluster]:
    """A lab for it, with a relay where it needs one; the scheduler and workers are not started."""
    async with open_lab(scenario_for(network)) as lab:
        cluster = Cluster(lab, network, checkout, environment)
        if network == "relay":
            command = [*LATTICA, "relay", "--open", "--json", "--listen", "/ip4/0.0.0.0/tcp/4000"]
            relay = await lab.start("relay", command, name="relay", env=UNLIMITED)
            _, ready = await relay.wait_event(lambda each: "peer_id" in each)
            public = lab.public_ip("relay")
            cluster.relays = tuple(each for each in ready["addrs"] if f"/{public}/" in each)
        yield cluster
