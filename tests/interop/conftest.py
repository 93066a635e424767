"""Fixtures: a factory for each foreign implementation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.interop import partners
from tests.interop.foreign import ForeignPeer, js_peer, stock_peer
from tests.interop.godaemon import go_daemon

Start = Callable[[], AbstractAsyncContextManager[ForeignPeer]]


@pytest.fixture(scope="session")
def original_installed() -> Path:
    """Folder of the original lattica 1.0.21."""
    return partners.require("original")


@pytest.fixture(scope="session")
def hugging_face_installed() -> Path:
    """Folder of the hub's own client."""
    return partners.require("hugging-face")


@pytest.fixture(scope="session")
def go_installed() -> Path:
    """Folder of the go-libp2p daemon."""
    return partners.require("go")


@pytest.fixture(scope="session")
def js_installed() -> Path:
    """Folder of js-libp2p and its own node."""
    return partners.require("js")


@pytest.fixture(scope="session")
def js_pubsub_installed() -> Path:
    """Folder of js-libp2p with GossipSub."""
    return partners.require("js-pubsub")


@pytest.fixture(scope="session")
def js_kad_installed() -> Path:
    """Folder of js-libp2p with its DHT."""
    return partners.require("js-kad")


@pytest.fixture(params=["go", "js", "py-libp2p"])
def start_partner(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Starts a partner on TCP; one test for each implementation that serves echo."""
    match request.param:
        case "go":
            installed = request.getfixturevalue("go_installed")
            return lambda: go_daemon(installed, tmp_path)
        case "js":
            installed = request.getfixturevalue("js_installed")
            return lambda: js_peer(installed, tmp_path)
        case _:
            return lambda: stock_peer(tmp_path)
