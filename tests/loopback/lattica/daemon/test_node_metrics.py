"""What a node that stays shows to those who watch it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import trio

from lattica import Node
from lattica.config import load_config
from lattica.daemon.node.running import member_of
from tests.loopback.lattica.daemon.test_metrics import get
from tests.support.nets.nets import unused_port

NOBODY = "/ip4/127.0.0.1/tcp/1"


async def test_a_node_says_how_it_is_and_how_near_its_limits(tmp_path: Path) -> None:
    port = unused_port()
    (tmp_path / "model.bin").write_bytes(bytes(1000))
    overrides: dict[str, Any] = {
        "listen": ("/ip4/127.0.0.1/tcp/0",),
        "nat.port_mapping.enabled": False,
        "nat.relay_server.enabled": True,
        "nat.relay_server.limits.open_to_strangers": True,
        "data_dir": tmp_path,
        "bootstrap": (NOBODY,),
        "dht.enabled": True,
        "swarm.limits.max_connections": 10,
        "node.api": False,
        "node.publish": (tmp_path / "model.bin",),
        "metrics.listen": (f"127.0.0.1:{port}",),
        "metrics.token": "hush",
    }
    config = load_config(environment={}, overrides=overrides)
    dialer = load_config(environment={}, overrides={"listen": ()})
    async with Node(config) as node, member_of(node) as member:
        assert (await get(port, "/healthz"))[0] == 200
        status, body = await get(port, "/readyz")
        assert status == 503
        assert json.loads(body)["troubles"] == [
            "it is connected to nobody, not even to a bootstrap peer"
        ]
        assert (await get(port, "/metrics"))[0] == 401
        async with Node(dialer) as other:
            await other.connect(node.addrs[0])
            await node.wait_connected(other.peer_id, 20)
            with trio.fail_after(60):
                while not [*member.content.publications()]:
                    await trio.sleep(0.02)
            assert (await get(port, "/readyz"))[0] == 200
            node.topics.subscription("news", None, None)
            node.rpc.statistics()
            node.swarm.registry.limits_hit["max_connections"] += 3
            status, text = await get(port, "/metrics", "Authorization: Bearer hush")
        assert status == 200
        for line in (
            'lattica_limit_used_percent{limit="max_connections"} 10.0',
            'lattica_limit_used_percent{limit="receive_memory_total"} 0.0',
            'lattica_limit_hits_total{limit="max_connections"} 3.0',
            'lattica_limit_hits_total{limit="max_pending_inbound"} 0.0',
            'lattica_connections{direction="inbound",path="direct-tcp"} 1.0',
            "lattica_node_publications 1.0",
            "lattica_node_published_bytes 1000.0",
            'lattica_node_transfers{kind="fetch"} 0.0',
            "lattica_dht_storage_usable 1.0",
            "lattica_dht_reprovide_lag_seconds 0.0",
            "lattica_dht_crowded_lookups_total 0.0",
            "lattica_relay_reservations 0.0",
            "lattica_rpc_sessions 0.0",
        ):
            assert line in text.splitlines(), line
        assert str(other.peer_id) not in text
        assert "lattica_topics " in text
        # Of every figure it is said what it is.
        names = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
        types = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        assert names == types
