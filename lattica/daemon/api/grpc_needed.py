"""grpcio, where it is installed."""

from __future__ import annotations

from typing import Any

from lattica.daemon.errors import DaemonError


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
        raise DaemonError(
            "the local API of a node needs grpcio: pip install 'lattica-stack[grpc]'"
        ) from None
    return grpc
