"""What RPC counts, in Prometheus' terms. Needs prometheus_client, which is the program's own.

No label grows with the number of peers: methods are those that are served or called here, at most
:data:`~lattica.rpc.telemetry.statistics.MAX_METHODS` of the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lattica.rpc.telemetry.statistics import BUCKETS, RpcStatistics


class RpcCollector(Collector):
    """For `prometheus_client.REGISTRY.register`.

    `statistics` gives the figures, such as `node.rpc.statistics`, or `lattica.rpc.statistics` of a
    facade where the registry is asked in another thread than the node's.
    """

    def __init__(self, statistics: Callable[[], RpcStatistics]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now."""
        now = self._statistics()
        labels = ("side", "method")
        calls = CounterMetricFamily(
            "lattica_rpc_calls", "Calls that have ended, by status code.", labels=(*labels, "code")
        )
        active = GaugeMetricFamily("lattica_rpc_calls_active", "Calls under way.", labels=labels)
        durations = HistogramMetricFamily(
            "lattica_rpc_call_seconds", "Durations of calls that have ended.", labels=labels
        )
        for method in now.methods:
            of = (method.side, method.method)
            for code, count in method.codes.items():
                calls.add_metric((*of, code), count)
            active.add_metric(of, method.active)
            total, buckets = 0, []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), method.buckets, strict=True):
                total += count
                buckets.append((bound, float(total)))
            durations.add_metric(of, buckets, method.seconds)
        yield from (calls, active, durations)
        for name, text, value in (
            ("sessions", "Callers that are connected, or may come back.", now.sessions),
            ("peers_called", "Peers that were called and are remembered.", now.peers),
            ("receive_memory_bytes", "Large bodies in work.", now.receive_memory),
            ("handler_threads", "Threads that run handlers.", now.threads),
            ("leases", "Buffers lent to peers.", now.leases.lent),
            ("leased_bytes", "Of these buffers.", now.leases.bytes_lent),
            ("shared_memory_links", "Peers on this machine.", now.shared_memory.links),
        ):
            yield GaugeMetricFamily(f"lattica_rpc_{name}", text, value=value)
        for name, text, value in (
            ("retries", "Calls that were made again.", now.retries),
            ("data_sent_bytes", "Messages sent over the data plane.", now.data_sent),
            ("data_received_bytes", "Messages received over it.", now.data_received),
            ("shared_memory_sent_bytes", "By shared memory instead.", now.shared_memory.sent),
            ("shared_memory_received_bytes", "The same, received.", now.shared_memory.received),
        ):
            yield CounterMetricFamily(f"lattica_rpc_{name}", text, value=value)
