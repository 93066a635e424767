"""The engine that learns from coverage: atheris (libFuzzer), if it is installed.

libFuzzer owns the process: it installs signal handlers, and ends with `_exit`. So each target
runs in a process of its own, with a corpus folder that makes the next run start where this
one ended.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from typing import Any

from tools.fuzz import engine
from tools.fuzz.target import MIB, Crash

CORPUS = engine.CRASHES / "corpus"
MEMORY_LIMIT = 2048 * MIB


def available() -> bool:
    return importlib.util.find_spec("atheris") is not None


def fuzz_in_child(name: str, *, seed: int, seconds: float) -> bool:
    """Fuzz one target in a child process that prints what it finds; True if it found nothing."""
    command = [sys.executable, "-m", "tools.fuzz.coverage_guided", name, str(seed), str(seconds)]
    return subprocess.run(command, check=False).returncode == 0


def _child(name: str, seed: int, seconds: float) -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["lattica", "tools.fuzz.targets"]):
        from tools.fuzz.table import load
        from tools.fuzz.target import try_input

        target = load(name)

    def one_input(data: bytes) -> None:
        # Memory is libFuzzer's business here (rss_limit_mb).
        crash = try_input(target, data)
        if crash is not None:
            _report(engine.shrink(target, crash))
            raise SystemExit(1)

    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds):
        (folder / f"seed-{number}").write_bytes(data)
    words = folder.parent / f"{name}.dict"
    # An empty dictionary is an error to libFuzzer, so a word that is always there.
    tokens = [token for token in target.tokens if token] or [b"\0"]
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in tokens))
    arguments = [
        sys.argv[0],
        f"-max_total_time={max(1, round(seconds))}",
        f"-seed={seed or 1}",
        f"-max_len={target.max_size}",
        f"-dict={words}",
        f"-artifact_prefix={engine.CRASHES / name}-",
        f"-rss_limit_mb={MEMORY_LIMIT // MIB}",
        "-verbosity=0",
        "-print_final_stats=1",
        str(folder),
    ]
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()


def _report(crash: Crash) -> None:
    path = engine.save(crash)
    print(engine.describe(crash, path), flush=True)


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    _child(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
