"""What a relay counts, in Prometheus' terms. Needs prometheus_client, of the extra `metrics`.

No label grows with the number of peers: limits have the names of their settings. What each peer has
used is in `lattica relay accounts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lattica.nat.traversal.relay.server.service import RelayService

LIMITS = (
    "access", "ban", "circuits_per_network", "data", "draining", "http", "max_circuits",
    "max_reservations", "max_strangers_circuits", "month_per_network", "month_per_peer",
    "month_total", "per_peer", "reservations", "reservations_per_ip", "reservations_per_network",
    "token_circuits",
)  # fmt: skip
"""All that can be hit: a counter is there from the start, so that its first rise is seen."""


class RelayCollector(Collector):
    """A relay's load against its limits. To be asked in its trio thread.

    `bans` says how many hold, `trouble` why the relay's file cannot be used (empty: it can),
    `draining` whether the relay is about to stop.
    """

    def __init__(
        self,
        service: RelayService,
        *,
        bans: Callable[[], int] = lambda: 0,
        trouble: Callable[[], str] = lambda: "",
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._service = service
        self._bans = bans
        self._trouble = trouble
        self._draining = draining

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now."""
        stats = self._service.stats
        for name, text, value in (
            ("reservations", "Reservations held now.", stats.reservations),
            ("circuits", "Circuits open now.", stats.circuits),
            ("bans", "Peers and networks that are banned now.", self._bans()),
            ("file_usable", "1 while tokens, bans and accounts can be read and written.",
             not self._trouble()),
            ("draining", "1 while the relay is about to stop.", self._draining()),
            ("month_bytes", "Bytes relayed in this calendar month (UTC).",
             self._service.ledger.total.used),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"lattica_relay_{name}", text, value=float(value))
        for name, text, value in (
            ("circuits_opened", "Circuits opened since the start.", stats.circuits_total),
            ("bytes", "Bytes relayed since the start, both directions.", stats.bytes_total),
            ("refused", "Requests refused since the start.", stats.refused_total),
        ):
            yield CounterMetricFamily(f"lattica_relay_{name}", text, value=value)
        hits = CounterMetricFamily(
            "lattica_relay_limit_hits",
            "How often a limit was hit, by the name of its setting.",
            labels=("limit",),
        )
        found = self._service.limits_hit
        for limit in sorted({*LIMITS, *found}):
            hits.add_metric((limit,), found.get(limit, 0))
        yield hits
        used = GaugeMetricFamily(
            "lattica_relay_limit_used_percent",
            "How much of a limit is used, in percent; by peer and network, of whoever has most.",
            labels=("limit",),
        )
        most = GaugeMetricFamily(
            "lattica_relay_limit", "Limits that are set, in their own units.", labels=("limit",)
        )
        for usage in self._service.usage():
            used.add_metric((usage.name,), 100.0 * usage.used / usage.limit)
            most.add_metric((usage.name,), usage.limit)
        yield from (used, most)
