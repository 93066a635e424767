"""Topics: what is published under a name reaches everybody who has subscribed to it.

GossipSub v1.1 and v1.2 (https://github.com/libp2p/specs/tree/master/pubsub/gossipsub),
wire-compatible with go, js and rust. `messages` is what goes over the wire, `signing` who has said
it, `core` decides (pure), `service` connects it to streams, `membership` knows who is here.
"""
