"""One that says it has everything of a publication, and sends wrong bytes: the demo's villain.

`python liar.py PATH TICKET ADDR`: it takes the description of what lies at PATH, listens at ADDR,
and tells the peer of the ticket that it shares; that one names it to all others who fetch the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from lattica import Node, load_config
from lattica.content.publish.catalog import Publication, make_publication
from lattica.content.publish.service import serving
from lattica.content.swarm.messages import HOLDINGS, Hello, encode_hello
from lattica.content.ticket import Ticket
from lattica.nat.base.net.addresses import with_peer


class Lie(Publication):
    """A publication with zeros for bytes."""

    def read_span(self, first: int, count: int) -> bytes:
        """As many as were to be sent."""
        return bytes(len(super().read_span(first, count)))


async def main(path: str, text: str, address: str) -> None:
    """Until it is killed."""
    ticket = Ticket.parse(text)
    truth = await make_publication(Path(path))
    lie = Lie(truth.cid, truth.manifest, truth.encoded, truth.files)

    async with Node(load_config(overrides={"listen": [address]})) as node:
        with serving(node, {lie.cid: lie}.get):
            peer = await node.connect([with_peer(a, ticket.peer_id) for a in ticket.addrs])
            async with await node.open_stream(peer, HOLDINGS) as stream:
                addrs = Ticket.make(truth.cid, node.peer_id, node.addrs).addrs
                await stream.send_message(encode_hello(Hello(truth.cid, True, addrs)))
                print(json.dumps({"peer_id": str(node.peer_id)}), flush=True)
                while await stream.receive_some():
                    pass
            await trio.sleep_forever()


if __name__ == "__main__":
    source, ticket, address = sys.argv[1:]
    trio.run(main, source, ticket, address)
