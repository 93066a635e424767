"""What Parallax imports besides lattica, torch and MLX."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.bench.venvs import ensure

REQUIREMENTS = (
    "dijkstar==2.6.0",
    "pyzmq>=25",
    "uvloop",
    "aiohttp",
    "httpx[socks]>=0.26",
    "fastapi",
    "uvicorn",
    "requests",
    "psutil",
    "numpy>=1.26",
    "safetensors>=0.5.1",
    "protobuf==6.31.1",
)
ORIGINAL = "lattica==1.0.21"


@dataclass(frozen=True, slots=True)
class Environment:
    """How Parallax is run."""

    python: Path
    packages: Path | None
    """Added at the end of what the Python has itself."""


def environment(impl: str, say: Callable[[str], None]) -> Environment:
    """With ours, or with the original (`lattica-rs`). Raises SetupError."""
    if impl == "lattica-rs":
        return Environment(ensure("parallax-rs", (*REQUIREMENTS, ORIGINAL), say), None)
    python = ensure("parallax", REQUIREMENTS, say)
    (packages,) = (python.parents[1] / "lib").glob("python*/site-packages")
    return Environment(Path(sys.executable), packages)
