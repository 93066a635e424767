"""The pages of a daemon: `/metrics`, `/healthz`, `/readyz`. Needs the extra `metrics`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    generate_latest,
)
from prometheus_client.registry import Collector

from lattica.daemon.metrics.http import Page, Route

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def routes(
    collectors: Iterable[Collector], troubles: Callable[[], list[str]], token: str = ""
) -> dict[str, Route]:
    """The pages.

    `/healthz` says that the process answers; `/readyz` also that it should be sent work: 503 with
    the reasons that `troubles` gives, if any. `token` is needed for `/metrics` alone.
    """
    registry = CollectorRegistry()
    for collector in (*collectors, PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    return {
        "/metrics": Route(lambda: Page(generate_latest(registry), kind=PROMETHEUS), token),
        "/healthz": Route(lambda: Page(b"ok\n")),
        "/readyz": Route(lambda: _ready(troubles())),
    }


def _ready(troubles: list[str]) -> Page:
    status = HTTPStatus.SERVICE_UNAVAILABLE if troubles else HTTPStatus.OK
    body = json.dumps({"ready": not troubles, "troubles": troubles}) + "\n"
    return Page(body.encode(), status, "application/json")
