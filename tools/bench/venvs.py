"""A virtual environment for each peer, made when first asked for, under `.cache/bench/`."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "bench"
ATTEMPTS = 3
STAMP = "lattica-bench.json"


class SetupError(Exception):
    """An environment cannot be made; the message says what failed and what to do."""


@dataclass(frozen=True, slots=True)
class Peer:
    """An implementation to compare with.

    `script` is its child script in this folder, `variant` what it is told to be. `requirements`
    is what pip installs; empty for what runs in the environment of the benchmark itself. `sender`
    is the side from which a stream's data comes. `relays`: it has a relay, which is measured
    between peers of ours.
    """

    name: str
    script: str
    requirements: tuple[str, ...]
    variant: str = ""
    sender: Literal["server", "client"] = "client"
    relays: bool = False


OURS = Peer("lattica", "impl_lattica.py", ())
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("grpcio", "impl_grpcio.py", ("grpcio>=1.66",)),
        Peer("py-libp2p", "impl_py_libp2p.py", ("libp2p==0.8.1",), relays=True),
        # Of torch any version will do. It is large: of the last ones here, those for CPUs alone are
        # preferred where the package index has them.
        Peer("hivemind", "impl_hivemind.py", ("hivemind==1.1.12", "torch<2.14", "setuptools<80")),
        Peer("libtorrent", "impl_libtorrent.py", ("libtorrent==2.1.1",), sender="server"),
        Peer("lattica-rs", "impl_lattica_rs.py", ("lattica==1.0.21",), sender="server"),
        Peer("lattica-compat", "impl_lattica_rs.py", (), "compat", sender="server"),
    )
}
REFERENCES: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("tcp", "impl_tcp.py", (), "plain"),
        Peer("tcp-cubic", "impl_tcp.py", (), "cubic"),
        Peer("tcp-bbr", "impl_tcp.py", (), "bbr"),
    )
}
"""Run with the workloads that name them, asked for or not."""


def _stamp(requirements: tuple[str, ...]) -> str:
    return json.dumps({"requirements": requirements, "python": sys.version})


def _run(command: list[str]) -> None:
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        tail = "\n".join((result.stderr or result.stdout).strip().splitlines()[-5:])
        raise SetupError(tail or f"exit status {result.returncode}")


def _build(folder: Path, requirements: tuple[str, ...]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    python = str(folder / "bin" / "python")
    _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])


def ensure(
    name: str,
    requirements: tuple[str, ...],
    say: Callable[[str], None],
    *,
    cache: Path = CACHE,
    build: Callable[[Path, tuple[str, ...]], None] = _build,
    pause: float = 3.0,
) -> Path:
    """The Python of the environment `name`, which is made or remade if need be.

    Safe to call from several processes at once. Tries three times, `pause` seconds apart, and
    leaves nothing half-made. Raises :class:`SetupError`.
    """
    folder = cache / name
    stamp = folder / STAMP
    wanted = _stamp(requirements)
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return folder / "bin" / "python"
        say(f"making an environment for {name}: {' '.join(requirements)}")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                build(folder, requirements)
            except SetupError as error:
                shutil.rmtree(folder, ignore_errors=True)
                if attempt == ATTEMPTS:
                    raise SetupError(
                        f"cannot install {' '.join(requirements)} for {name} (tried {ATTEMPTS} "
                        f"times); is a package index reachable?\n{error}"
                    ) from error
                say(f"installing {name} failed, trying again: {error}")
                time.sleep(pause)
            else:
                stamp.write_text(wanted)
                return folder / "bin" / "python"
    raise AssertionError("unreachable")
