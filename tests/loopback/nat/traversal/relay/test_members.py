"""A node that relays for the members of its documents, and for nobody else."""

from __future__ import annotations

import pytest
import trio

from lattica.config import load_config
from lattica.daemon.relay.server import require_relay
from lattica.errors import ConfigError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.traversal.relay.server.access import ALLOWED, Denial
from lattica.node import Node
from tests.support.nets.nets import settled

QUIET = {"nat.port_mapping.enabled": False, "listen": ["/ip4/127.0.0.1/tcp/0"]}


def node(**settings: object) -> Node:
    return Node(load_config(environment={}, overrides=QUIET | settings))


async def test_owners_and_who_has_a_right_are_served_as_long_as_they_have_it() -> None:
    stranger = Identity.generate().peer_id
    with trio.fail_after(90):
        async with node() as owner:
            document = await owner.store.create("cluster")
            relaying = {
                "nat.relay_server.enabled": True,
                "nat.relay_server.allow_documents": [document.id],
                "nat.relay_server.deny_peers": [str(stranger)],
            }
            async with node(**relaying) as relay:
                service = relay.traversal.relay_service
                assert service is not None
                access = service.access
                # Of a document that is not open here nobody is a member.
                assert isinstance(access.standing(owner.peer_id), Denial)
                document.grant(relay.peer_id)
                await relay.connect(owner.addrs)
                theirs = await relay.store.open(document.id)
                await theirs.synced(timeout=60)
                await settled(lambda: access.standing(owner.peer_id) is ALLOWED)
                assert access.standing(relay.peer_id) is ALLOWED
                async with node(relays=[str(addr) for addr in relay.addrs]) as member:
                    assert isinstance(access.standing(member.peer_id), Denial)
                    with pytest.raises(TimeoutError):
                        await member.wait_reachable(0.5)
                    document.grant(member.peer_id)
                    document.grant(stranger)
                    await member.wait_reachable(60)
                    assert isinstance(access.standing(stranger), Denial)  # on the deny-list
                    document.revoke(member.peer_id)
                    while access.standing(member.peer_id) is ALLOWED:
                        await trio.sleep(0.1)
                theirs.close()
                await settled(lambda: isinstance(access.standing(owner.peer_id), Denial))


async def test_who_opens_a_document_that_is_open_to_all_is_no_member() -> None:
    with trio.fail_after(60):
        async with node() as other:
            shared = await other.store.open("for-everybody")
            relaying = {
                "nat.relay_server.enabled": True,
                "nat.relay_server.allow_documents": [shared.id],
            }
            async with node(**relaying) as relay:
                service = relay.traversal.relay_service
                assert service is not None
                await relay.store.open("for-everybody")
                assert isinstance(service.access.standing(other.peer_id), Denial)


def test_an_id_is_checked_and_is_not_for_lattica_relay() -> None:
    given = QUIET | {"nat.relay_server.enabled": True}
    with pytest.raises(ConfigError, match="allow_documents"):
        load_config(
            environment={}, overrides=given | {"nat.relay_server.allow_documents": ["cluster"]}
        )
    config = load_config(
        environment={}, overrides=given | {"nat.relay_server.allow_documents": ["ab" * 32]}
    )
    with pytest.raises(ConfigError, match="lattica node"):
        require_relay(config)
