"""The DHT."""

from __future__ import annotations

from lattica.daemon.api.methods.base import Emit, MemberMethods
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.daemon.api.values import pack, unpack
from lattica.dht.records.found import DhtValue, FoundPeer


class DhtMethods(MemberMethods):
    """See `node.proto`."""

    async def dht_put(self, request: pb.DhtPutRequest) -> pb.DhtPutReply:
        held = await self.node.dht.put(
            request.key,
            unpack(request.value),
            subkey=request.subkey if request.HasField("subkey") else None,
            ttl=request.ttl_seconds or None,
        )
        return pb.DhtPutReply(peers=held)

    async def dht_get(self, request: pb.DhtGetRequest) -> pb.DhtGetReply:
        found = await self.node.dht.get(request.key, owner=request.owner or None)
        if found is None:
            return pb.DhtGetReply()
        others = [each for each in found.values if each is not found.newest]
        return pb.DhtGetReply(values=map(_value, [found.newest, *others]))

    async def dht_provide(self, request: pb.DhtProvideRequest) -> pb.DhtProvideReply:
        return pb.DhtProvideReply(peers=await self.node.dht.provide(request.name))

    async def dht_withdraw(self, request: pb.DhtWithdrawRequest) -> pb.DhtWithdrawReply:
        return pb.DhtWithdrawReply(peers=await self.node.dht.withdraw(request.name))

    async def dht_find_providers(
        self, request: pb.DhtFindProvidersRequest, emit: Emit[pb.FoundPeer]
    ) -> None:
        async for peer in self.node.dht.find_providers(request.name, count=request.count or None):
            await emit.send(_peer(peer))

    async def dht_find_peer(self, request: pb.DhtFindPeerRequest) -> pb.DhtFindPeerReply:
        found = await self.node.dht.find_peer(request.peer_id)
        return pb.DhtFindPeerReply(peer=None if found is None else _peer(found))


def _value(value: DhtValue) -> pb.DhtValue:
    return pb.DhtValue(
        value=pack(value.value),
        owner=str(value.owner),
        subkey=value.subkey,
        sequence=value.sequence,
        expires=value.expires,
    )


def _peer(peer: FoundPeer) -> pb.FoundPeer:
    return pb.FoundPeer(peer_id=str(peer.peer_id), addrs=map(str, peer.addrs))
