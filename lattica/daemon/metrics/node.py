"""What a node counts, in Prometheus' terms. Needs prometheus_client, of the extra `metrics`.

No label grows with the number of peers: paths and directions are few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lattica.nat.swarm.swarm import Swarm


class SwarmCollector(Collector):
    """Connections, streams and memory of a node. To be asked in its trio thread."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now."""
        registry = self._swarm.registry
        connections: Counter[tuple[str, str]] = Counter()
        streams = 0
        for connection in registry:
            connections[connection.path, connection.direction.name.lower()] += 1
            streams += connection.stream_count
        family = GaugeMetricFamily(
            "lattica_connections",
            "Open connections, by path (direct-tcp, direct-quic, relayed, …) and who dialed.",
            labels=("path", "direction"),
        )
        for labels, count in sorted(connections.items()):
            family.add_metric(labels, count)
        yield family
        memory = self._swarm.receive_memory
        for name, text, value in (
            ("peers", "Connected peers.", len(registry.by_peer)),
            ("connections_limit", "Connections that there may be.",
             registry.limits.max_connections),
            ("streams", "Open streams.", streams),
            ("receive_memory_bytes", "What was received and nobody has read.", memory.used),
            ("receive_memory_limit_bytes", "How much of that there may be.", memory.limit),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"lattica_{name}", text, value=value)
        yield from self._limits()

    def _limits(self) -> Iterator[Metric]:
        swarm = self._swarm
        registry, pending, memory = swarm.registry, swarm.listeners.pending, swarm.receive_memory
        hits = CounterMetricFamily(
            "lattica_limit_hits",
            "How often a limit cost somebody a connection or a stream, by its setting's name.",
            labels=("limit",),
        )
        for limit, count in (
            ("max_connections", registry.limits_hit["max_connections"]),
            ("max_connections_per_peer", registry.limits_hit["max_connections_per_peer"]),
            ("max_pending_inbound", swarm.listeners.turned_away),
            ("receive_memory_total", memory.hits),
        ):
            hits.add_metric((limit,), count)
        yield hits
        used = GaugeMetricFamily(
            "lattica_limit_used_percent",
            "How much of a limit is used, in percent; by peer, of whoever has most.",
            labels=("limit",),
        )
        per_peer = max((len(each) for each in registry.by_peer.values()), default=0)
        for limit, count, most in (
            ("max_connections", registry.total, registry.limits.max_connections),
            ("max_connections_per_peer", per_peer, registry.limits.max_connections_per_peer),
            ("max_pending_inbound", len(pending), pending.limit),
            ("receive_memory_total", memory.used, memory.limit),
        ):
            used.add_metric((limit,), 100.0 * count / most)
        yield used
