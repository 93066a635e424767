"""Topics."""

from __future__ import annotations

from lattica.daemon.api.methods.base import Emit, MemberMethods
from lattica.daemon.api.pb import node_pb2 as pb


class TopicMethods(MemberMethods):
    """See `node.proto`."""

    async def topic_publish(self, request: pb.TopicPublishRequest) -> pb.TopicPublishReply:
        reached = await self.node.topic(request.topic).publish(request.data)
        return pb.TopicPublishReply(peers=reached)

    async def topic_subscribe(
        self, request: pb.TopicSubscribeRequest, emit: Emit[pb.TopicMessage]
    ) -> None:
        async with self.node.topic(request.topic).subscribe() as messages:
            await emit.send(pb.TopicMessage())
            async for message in messages:
                await emit.send(
                    pb.TopicMessage(
                        data=message.data,
                        source=str(message.source),
                        seqno=message.seqno,
                        via=str(message.via),
                    )
                )
