"""What the methods of the API do, under trio: a room each for what they are about.

A method with one response is `async def name(request) -> response`; one with many is
`async def name(request, emit)`, and ends when it returns. Both are cancelled when their client is
gone. Their names are those of `node.proto`.
"""

from __future__ import annotations

from lattica.daemon.api.methods.content import ContentMethods
from lattica.daemon.api.methods.crdt import CrdtMethods
from lattica.daemon.api.methods.dht import DhtMethods
from lattica.daemon.api.methods.peers import PeerMethods
from lattica.daemon.api.methods.ports import PortMethods
from lattica.daemon.api.methods.serving import ServingMethods
from lattica.daemon.api.methods.topics import TopicMethods


class Methods(
    PeerMethods,
    ServingMethods,
    ContentMethods,
    DhtMethods,
    TopicMethods,
    PortMethods,
    CrdtMethods,
):
    """All of them, for one node."""
