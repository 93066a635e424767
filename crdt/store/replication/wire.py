"""The two hellos of a stream, and its messages, over trio."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from lattica.crdt.sync.messages import (
    ABSENT,
    MAX_MESSAGE,
    NONCE_BYTES,
    PROTOCOL,
    Absent,
    Hello,
    Message,
    Purpose,
    decode_message,
    encode_hello,
    hello_tag,
    welcome_tag,
)
from lattica.nat.base.errors import IncompleteReadError, NotConnectedError, RemoteProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

PATIENCE: Final = 30.0
"""Seconds that the other side has for a message that it owes."""


async def open_about(
    host: Host,
    peer: PeerId,
    doc_id: bytes,
    purpose: Purpose,
    capability: bytes = b"",
    on_refusal: Callable[[Stream], Awaitable[None]] | None = None,
) -> tuple[Stream, Hello] | None:
    """A stream about a document, and the peer's hello; None if the peer does not have it, or not
    for this node: then `on_refusal` hears what else it says. `capability` is what is shown.

    Raises what streams do, RemoteProtocolError, TimeoutError, and NotConnectedError: nobody is
    dialed for it.
    """
    nonce = os.urandom(NONCE_BYTES)
    names = host.peer_id.to_bytes(), peer.to_bytes()
    if host.path(peer) is None:
        raise NotConnectedError(f"{peer} is not connected any more")
    stream = await host.open_stream(peer, PROTOCOL)
    is_open = False
    try:
        hello = Hello(purpose, nonce, hello_tag(doc_id, nonce, *names), capability)
        await stream.send_message(encode_hello(hello))
        match await receive(stream):
            case Absent():
                if on_refusal is not None:
                    await on_refusal(stream)
                return None
            case Hello(answered, again, tag) as welcomed if (answered, again) == (
                purpose,
                nonce,
            ) and tag == welcome_tag(doc_id, nonce, *names):
                is_open = True
                return stream, welcomed
        raise RemoteProtocolError("an answer to a hello that does not know the document")
    finally:
        if not is_open:
            stream.reset()


async def receive_hello(
    host: Host, stream: Stream, documents: Iterable[bytes]
) -> tuple[Hello, bytes] | None:
    """What a peer has opened a stream for, and about which of these documents; None, and that is
    said, if about none of them.

    Raises what streams do, RemoteProtocolError, and TimeoutError.
    """
    hello = await receive(stream)
    if not isinstance(hello, Hello):
        raise RemoteProtocolError("a stream about a document that begins without a hello")
    names = stream.peer_id.to_bytes(), host.peer_id.to_bytes()
    for doc_id in documents:
        if hello.tag == hello_tag(doc_id, hello.nonce, *names):
            return hello, doc_id
    await stream.send_message(ABSENT)
    return None


async def welcome(
    host: Host, stream: Stream, hello: Hello, doc_id: bytes, capability: bytes
) -> None:
    """Say that the document is here, and show by what it is read."""
    names = stream.peer_id.to_bytes(), host.peer_id.to_bytes()
    tag = welcome_tag(doc_id, hello.nonce, *names)
    await stream.send_message(encode_hello(Hello(hello.purpose, hello.nonce, tag, capability)))


async def receive(stream: Stream, patience: float = PATIENCE) -> Message:
    """The next message. Raises what streams do, RemoteProtocolError, and TimeoutError."""
    return decode_message(await receive_bytes(stream, patience))


async def receive_bytes(stream: Stream, patience: float = PATIENCE) -> bytes:
    """The next message, unread. Raises as :func:`receive`."""
    with trio.move_on_after(patience):
        return await stream.receive_message(MAX_MESSAGE)
    raise TimeoutError(f"a peer said nothing about a document for {patience:g} s")


async def expect_end(stream: Stream) -> None:
    """Wait until the other side is done. Raises as :func:`receive`."""
    with trio.move_on_after(PATIENCE):
        if await stream.receive_some(1):
            raise RemoteProtocolError("an exchange that goes on after its end")
        return
    raise TimeoutError(f"a peer did not end an exchange within {PATIENCE:g} s")


async def send_bytes(stream: Stream, message: bytes, patience: float = 4 * PATIENCE) -> None:
    """Send a message; the other side has so many seconds to take it."""
    with trio.move_on_after(patience):
        await stream.send_message(message)
        return
    raise TimeoutError(f"a peer took nothing of a document for {patience:g} s")


def blame(peer: PeerId, error: RemoteProtocolError) -> None:
    """Say that a peer has broken the protocol. Who closes a document in mid-exchange has not."""
    if isinstance(error, IncompleteReadError):
        logger.debug("an exchange ended early peer=%s: %s", peer, error)
        return
    peer_log.log(
        logger,
        logging.WARNING,
        peer,
        "a peer broke the store's protocol peer=%s: %s",
        peer,
        error,
    )
