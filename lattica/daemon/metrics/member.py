"""What a node that stays counts, in Prometheus' terms. Needs prometheus_client, of the extra
`metrics`.

No label grows with the number of peers, files or documents: kinds of transfers are three.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lattica.rpc.prometheus import RpcCollector

if TYPE_CHECKING:
    from lattica.daemon.node.member import Member

KINDS = ("publish", "fetch", "follow")


class MemberCollector(Collector):
    """What it serves, and what of it is under way. To be asked in its trio thread; nothing is begun
    by looking."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now."""
        member = self._member
        node = member.node
        published = [publication for publication, _ in member.content.publications()]
        transfers = [*member.transfers]
        for name, text, value in (
            ("publications", "Files and directories that are served.", len(published)),
            ("published_bytes", "Bytes of these.", sum(p.manifest.size for p in published)),
            ("documents_open", "CRDT documents that are open.", len(member.documents)),
            ("ports_exposed", "TCP services of this machine that peers may connect to.",
             len(member.exposures)),
            ("ports_connections", "Connections of peers to these.",
             sum(len(each.scopes) for each in member.exposures)),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"lattica_node_{name}", text, value=value)
        under_way = GaugeMetricFamily(
            "lattica_node_transfers",
            "Hashings and fetches under way, and directories that follow a name.",
            labels=("kind",),
        )
        rate = GaugeMetricFamily(
            "lattica_node_transfer_bytes_per_second", "What they move.", labels=("kind",)
        )
        for kind in KINDS:
            of_kind = [each for each in transfers if each.kind == kind]
            under_way.add_metric((kind,), len(of_kind))
            rate.add_metric((kind,), sum(each.rate for each in of_kind))
        yield from (under_way, rate)
        if "topics" in node.in_use:
            topics = node.topics.subscribed()
            yield GaugeMetricFamily(
                "lattica_topics", "Topics that are subscribed to.", value=len(topics)
            )
        if "dht" in node.in_use:
            yield from _dht(member)
        if "rpc" in node.in_use:
            yield from RpcCollector(node.rpc.statistics).collect()


def _dht(member: Member) -> Iterator[Metric]:
    status = member.node.dht.status()
    for name, text, value in (
        ("peers", "Peers in the table of the DHT.", status.peers),
        ("values", "Values that are kept for others.", status.values),
        ("providers", "Providers that are kept for others.", status.providers),
        ("provided", "Keys that this node provides.", status.provided),
        ("providing", "Announcements of keys that are on their way.", status.providing),
        ("reprovide_due", "Keys that are to be announced again now.", status.reprovide_due),
        ("reprovide_lag_seconds", "For how long the first of them has waited.",
         status.reprovide_lag),
        ("server", "1 while others may ask this node.", status.mode == "server"),
        ("storage_usable", "1 while its records are kept as is wanted.",
         status.storage in STORED),
    ):  # fmt: skip
        yield GaugeMetricFamily(f"lattica_dht_{name}", text, value=float(value))
    if status.network_size is not None and status.network_size_error is not None:
        for name, text, estimate in (
            ("network_size", "Peers that serve the network, estimated.", status.network_size),
            ("network_size_error", "Of that, relative, one standard deviation.",
             status.network_size_error),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"lattica_dht_{name}", text, value=estimate)
    yield CounterMetricFamily(
        "lattica_dht_crowded_lookups",
        "Lookups next to whose keys peers were nearer than chance has it.",
        value=status.crowded,
    )


STORED = ("disk", "memory")
"""Where records are kept; anything else is what is wrong."""


def troubles(member: Member) -> list[str]:
    """Why the node should not be relied upon; empty if it should."""
    node = member.node
    found = []
    if node.config.swarm.listen and not node.swarm.listen_addrs:
        found.append("it listens nowhere")
    if node.config.bootstrap and not node.peers():
        found.append("it is connected to nobody, not even to a bootstrap peer")
    if "dht" in node.in_use and (storage := node.dht.status().storage) not in STORED:
        found.append(f"its records of the DHT are not written: {storage}")
    return found
