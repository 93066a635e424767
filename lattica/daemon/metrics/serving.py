"""Metrics and health, served where the configuration says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from lattica.daemon.access.secrets import read_secret
from lattica.daemon.metrics.config import MetricsConfig
from lattica.nat.base.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector


async def serve_metrics(
    config: MetricsConfig,
    nursery: trio.Nursery,
    collectors: Callable[[], list[Collector]],
    troubles: Callable[[], list[str]],
) -> tuple[int, ...]:
    """Serve in `nursery` until it ends; the ports. Nothing is loaded where nothing is asked for.

    Args:
        collectors: made when the extra `metrics` is known to be there.
        troubles: why the daemon should not be sent work.

    Raises:
        ConfigError: the extra is missing, or the token cannot be read.
        ListenError: an address cannot be had.
    """
    if not config.listen:
        return ()
    try:
        from lattica.daemon.metrics.endpoint import routes
        from lattica.daemon.metrics.http import WatchServer

        found = collectors()
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"metrics.listen needs {error.name}: pip install 'lattica-stack[metrics]'"
        ) from None
    token = await trio.to_thread.run_sync(read_secret, "metrics.token", config.token)
    server = WatchServer(routes(found, troubles, token))
    return tuple([await nursery.start(server.serve, endpoint) for endpoint in config.listen])
