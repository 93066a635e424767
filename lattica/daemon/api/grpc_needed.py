"""grpcio, where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from lattica.daemon.errors import DaemonError

INSTALL = "pip install 'lattica-stack[grpc]'"


def has_grpc() -> bool:
    """Whether grpcio is installed. Does not import it."""
    return find_spec("grpc") is not None


def import_grpc() -> Any:
    """The module `grpc`.

    Raises:
        DaemonError: it is not installed; says how it is.
    """
    try:
        import grpc
    except ModuleNotFoundError as error:
        if error.name != "grpc":
            raise
        raise DaemonError(f"the local API of a node needs grpcio: {INSTALL}") from None
    return grpc
