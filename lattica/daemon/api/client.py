"""A client of a node that runs as a daemon, for other programs of its user.

::

    with NodeClient() as node:
        print(node.status().peer_id)
        ticket = node.publish("/srv/models/llama").ticket
        node.topic_publish("news", b"hello")

Blocking, and for any number of threads at once. Needs grpcio, the extra `grpc`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from google.protobuf.message import Message

from lattica.daemon.api import socket_file
from lattica.daemon.api.failures import CLASS_KEY, error_of
from lattica.daemon.api.grpc_needed import INSTALL, has_grpc, import_grpc
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.daemon.api.served import Handler, Served
from lattica.daemon.api.service_table import MAX_MESSAGE, methods
from lattica.daemon.api.values import pack, unpack
from lattica.daemon.errors import DaemonError, DaemonGoneError
from lattica.facades.closable import Closable

if TYPE_CHECKING:
    from lattica.content.download.ranges import ByteRange

M = TypeVar("M", bound=Message)


def default_socket() -> Path:
    """Where the daemon of this user listens by the configuration that this process has."""
    from lattica.config import load_config

    config = load_config()
    return config.node.socket_in(config.data_dir)


class Responses(Closable, Generic[M]):
    """What comes of a call with many responses, as an iterator. Close it, or use `with`, if it is
    not read to its end: that cancels the call."""

    def __init__(self, grpc: Any, call: Any) -> None:
        self._grpc = grpc
        self._call = call

    def __iter__(self) -> Iterator[M]:
        return self

    def __next__(self) -> M:
        try:
            return cast("M", next(self._call))
        except self._grpc.RpcError as error:
            raise _error(error) from None

    def close(self) -> None:
        """Cancel the call. Idempotent."""
        self._call.cancel()


class NodeClient(Closable):
    """The node that listens at a socket.

    Args:
        socket: None: :func:`default_socket`.

    Every call takes a `timeout` in seconds (None: no limit), and raises `TimeoutError` when it has
    passed. All raise what the node's own method raises.

    Raises:
        DaemonGoneError: nobody listens there; from a call: the daemon has ended.
        DaemonError: the socket is another user's, or grpcio is not installed.
    """

    def __init__(self, socket: Path | str | None = None) -> None:
        self.socket = default_socket() if socket is None else Path(socket).absolute()
        if not socket_file.is_there(self.socket):
            start = "start one by `lattica node`"
            if not has_grpc():
                start += f", which listens there only with grpcio: {INSTALL}"
            raise DaemonGoneError(f"no node listens at {self.socket}: {start}")
        self._grpc = import_grpc()
        self._channel = self._grpc.insecure_channel(
            f"unix:{self.socket}",
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.max_send_message_length", MAX_MESSAGE),
                ("grpc.enable_http_proxy", 0),
                ("grpc.enable_retries", 0),
            ],
        )
        self._calls: dict[str, Any] = {}
        for spec in methods():
            make = self._channel.unary_stream if spec.streams else self._channel.unary_unary
            self._calls[spec.attribute] = make(
                spec.path,
                request_serializer=spec.request.SerializeToString,
                response_deserializer=spec.response.FromString,
            )

    def __repr__(self) -> str:
        return f"<NodeClient of {self.socket}>"

    def close(self) -> None:
        """Cancel what is under way, and disconnect. Idempotent."""
        self._channel.close()

    def _call(self, name: str, request: Message, timeout: float | None) -> Any:
        try:
            return self._calls[name](request, timeout=timeout)
        except self._grpc.RpcError as error:
            raise _error(error) from None

    def _stream(self, name: str, request: Message, timeout: float | None = None) -> Any:
        return Responses(self._grpc, self._calls[name](request, timeout=timeout))

    def _subscription(self, name: str, request: Message) -> Any:
        """A stream of what happens from this call's return on."""
        responses = self._stream(name, request)
        next(responses)  # it listens
        return responses

    def _outcome(
        self,
        name: str,
        request: Message,
        field: str,
        progress: Callable[[Any], object] | None,
        timeout: float | None,
    ) -> Any:
        """This field of the last response, which alone has it; those before it are progress."""
        with self._stream(name, request, timeout) as responses:
            for response in responses:
                if response.HasField(field):
                    return getattr(response, field)
                if progress is not None:
                    progress(response)
        raise DaemonError("the daemon has not said what became of it")

    # --- the node ---

    def status(self, *, timeout: float | None = None) -> pb.NodeStatus:
        """How the node is: its peers, transfers, documents, topics and DHT."""
        return cast("pb.NodeStatus", self._call("status", pb.StatusRequest(), timeout))

    def events(self) -> Responses[pb.Event]:
        """What happens in its swarm, from this call's return on."""
        return cast("Responses[pb.Event]", self._subscription("events", pb.EventsRequest()))

    def logs(self, last: int = 0) -> Responses[pb.LogLine]:
        """Its log: so many of the last lines, and then those that come."""
        return cast("Responses[pb.LogLine]", self._subscription("logs", pb.LogsRequest(last=last)))

    def connect(self, *targets: str, timeout: float | None = None) -> pb.ConnectReply:
        """Have it connected with a peer: its ID, or its addresses."""
        request = pb.ConnectRequest(targets=targets, timeout_seconds=timeout or 0.0)
        return cast("pb.ConnectReply", self._call("connect", request, _longer(timeout)))

    def disconnect(self, peer: str, *, timeout: float | None = None) -> None:
        """Have it close its connections to a peer."""
        self._call("disconnect", pb.DisconnectRequest(peer_id=peer), timeout)

    def call(
        self,
        peer: str,
        method: str,
        /,
        *args: object,
        timeout: float | None = None,
        **keywords: object,
    ) -> Any:
        """Call `Service.method` of a peer, with plain data; returns what it does."""
        request = pb.CallRequest(
            peer_id=peer,
            method=method,
            arguments=pack(args),
            keywords=pack(keywords) if keywords else b"",
        )
        return unpack(self._call("call", request, timeout).result)

    def serve(
        self,
        service: str,
        handlers: Mapping[str, Handler],
        *,
        allow: Sequence[str] = (),
        threads: int = 8,
    ) -> Served:
        """Have it serve a service to peers, whose calls run these functions in this program.

        Args:
            service: its name on the wire; peers call `SERVICE.METHOD`.
            handlers: a function for each method. It gets and returns plain data; an
                :class:`~lattica.rpc.errors.RpcError` that it raises is the caller's, and what else
                it raises is UNKNOWN there. Who calls is
                :data:`lattica.daemon.api.served.caller`.
            allow: the peers that may call; by default all.
            threads: in which handlers run; so many at a time.

        Peers are served when this returns, and until what it returns is closed. When this program
        ends, in whatever way, calls that wait fail with UNAVAILABLE, and the name is free. A
        handler goes on when its caller has given up; one that has not begun does not run. At most
        1,024 calls wait.

        Raises:
            LocalProtocolError: the node serves that name already, or it is none.
        """
        request = pb.ServeRequest(service=service, methods=handlers, allow=allow)
        return Served(self, self._subscription("serve", request), handlers, threads)

    def answer(
        self,
        call: int,
        result: object = None,
        *,
        code: int = 0,
        message: str = "",
        timeout: float | None = None,
    ) -> bool:
        """Answer a call of what :meth:`serve` serves, which does it by itself.

        Args:
            call: its ID.
            code, message: with which it fails; 0: it does not.

        Returns:
            Whether anybody has waited for it.
        """
        request = pb.AnswerRequest(id=call, code=code, message=message)
        if not code:
            request.result = pack(result)
        return bool(self._call("answer", request, timeout).wanted)

    # --- content ---

    def publish(
        self,
        path: Path | str,
        name: str | None = None,
        *,
        follow_links: bool = False,
        sign: bool = False,
        registry: str | None = None,
        repo: str | None = None,
        rate: float = 0.0,
        progress: Callable[[pb.PublishProgress], object] | None = None,
        timeout: float | None = None,
    ) -> pb.Publication:
        """Have it hash and serve a file or directory, until it ends or :meth:`unpublish`.

        `follow_links`, `sign`: as in :meth:`lattica.content.Publisher.publish`. `registry`:
        `crdt:DOCUMENT/MODEL[@VERSION]`, a name in a replicated document that is to lead to it from
        then on (`registry` of the publication has the version); the node opens the document, and
        keeps it. `repo`: `NAME[@REV]`, a revision of a repository that it is for a hub's clients
        (`lattica hf-door`). `rate`: bytes a second that are sent of it to all who fetch it
        together, 0 without limit.
        """
        if path == "":
            raise ValueError("name a file or directory to publish; '.' is this one")
        request = pb.PublishRequest(
            path=os.path.abspath(path),
            name=name or "",
            follow_links=follow_links,
            sign=sign,
            registry=registry or "",
            repo=repo or "",
            bytes_per_second=rate,
        )
        return cast(
            "pb.Publication", self._outcome("publish", request, "publication", progress, timeout)
        )

    def unpublish(self, ref: str, *, timeout: float | None = None) -> None:
        """Have it serve no longer what a ticket or content ID names."""
        self._call("unpublish", pb.UnpublishRequest(ref=ref), timeout)

    def fetch(
        self,
        ref: str,
        directory: Path | str,
        *,
        tensors: str | None = None,
        ranges: Sequence[ByteRange] = (),
        replace_tensors: bool = False,
        delete_former: bool = False,
        delete_matching: Sequence[str] = (),
        base: Sequence[Path | str] = (),
        share: bool = True,
        share_for: float = 0.0,
        rate: float = 0.0,
        signed_by: str | None = None,
        progress: Callable[[pb.FetchProgress], object] | None = None,
        timeout: float | None = None,
    ) -> pb.FetchDone:
        """Have it fetch what a ticket or content ID names into a directory.

        `tensors` and `ranges` are as in :func:`lattica.content.fetch`, and the options those of
        :class:`lattica.content.FetchOptions`; `rate` in bytes a second, 0
        without limit. If it is broken off (also by an exception of `progress`), the node stops, and
        the next fetch into the same directory goes on from there.
        """
        request = _fetch_request(
            ref, directory, tensors, base, share, share_for, rate, signed_by,
            replace_tensors=replace_tensors,
            delete_former=delete_former,
            delete_matching=delete_matching,
            ranges=[
                pb.ByteRange(path=each.path, start=each.start, stop=each.stop) for each in ranges
            ],
        )  # fmt: skip
        return cast("pb.FetchDone", self._outcome("fetch", request, "done", progress, timeout))

    def follow(
        self,
        name: str,
        directory: Path | str,
        *,
        tensors: str | None = None,
        replace_tensors: bool = False,
        delete_matching: Sequence[str] = (),
        base: Sequence[Path | str] = (),
        share: bool = True,
        share_for: float = 0.0,
        rate: float = 0.0,
        signed_by: str | None = None,
    ) -> Responses[pb.FetchProgress]:
        """Have it keep a directory what a name (`PEER/NAME`, `crdt:DOCUMENT/MODEL`) leads to, until
        this is closed.

        Options are those of :meth:`fetch`. Of each version that is there the response has `done`,
        the others are progress; one that could not be fetched (phase "failed") is tried again. Of
        the first version the errors are raised.
        """
        request = _fetch_request(
            name, directory, tensors, base, share, share_for, rate, signed_by,
            replace_tensors=replace_tensors,
            delete_matching=delete_matching,
        )  # fmt: skip
        return cast("Responses[pb.FetchProgress]", self._stream("follow", request))

    # --- DHT ---

    def dht_put(
        self,
        key: str,
        value: object,
        *,
        subkey: str | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> int:
        """Store a value signed by the node; returns how many peers have it."""
        request = pb.DhtPutRequest(
            key=key, value=pack(value), subkey=subkey, ttl_seconds=ttl or 0.0
        )
        return int(self._call("dht_put", request, timeout).peers)

    def dht_get(
        self, key: str, *, owner: str | None = None, timeout: float | None = None
    ) -> list[pb.DhtValue]:
        """The values under a key, the newest first; :func:`lattica.daemon.api.values.unpack` reads
        `value`."""
        request = pb.DhtGetRequest(key=key, owner=owner or "")
        return [*self._call("dht_get", request, timeout).values]

    def dht_provide(self, name: str, *, timeout: float | None = None) -> int:
        """Have it say that it has something; returns how many peers know."""
        return int(self._call("dht_provide", pb.DhtProvideRequest(name=name), timeout).peers)

    def dht_withdraw(self, name: str, *, timeout: float | None = None) -> int:
        """Have it say that it has it no more."""
        return int(self._call("dht_withdraw", pb.DhtWithdrawRequest(name=name), timeout).peers)

    def dht_find_providers(
        self, name: str, *, count: int | None = None, timeout: float | None = None
    ) -> Responses[pb.FoundPeer]:
        """Who has something, as they are found."""
        request = pb.DhtFindProvidersRequest(name=name, count=count or 0)
        return cast("Responses[pb.FoundPeer]", self._stream("dht_find_providers", request, timeout))

    def dht_find_peer(self, peer: str, *, timeout: float | None = None) -> pb.FoundPeer | None:
        """Where a peer is; None: nobody knows."""
        reply = self._call("dht_find_peer", pb.DhtFindPeerRequest(peer_id=peer), timeout)
        return reply.peer if reply.HasField("peer") else None

    # --- topics ---

    def topic_publish(self, topic: str, data: bytes, *, timeout: float | None = None) -> int:
        """Say something in a topic; returns to how many peers it was sent."""
        request = pb.TopicPublishRequest(topic=topic, data=data)
        return int(self._call("topic_publish", request, timeout).peers)

    def topic_subscribe(self, topic: str) -> Responses[pb.TopicMessage]:
        """What is said in a topic, from this call's return on."""
        request = pb.TopicSubscribeRequest(topic=topic)
        return cast("Responses[pb.TopicMessage]", self._subscription("topic_subscribe", request))

    # --- ports ---

    def expose(
        self,
        *targets: str | tuple[str, str],
        to: Sequence[str] | Literal["anyone"] = (),
        idle_timeout: float | None = None,
    ) -> Responses[pb.PortMessage]:
        """Let peers connect to TCP services of the node's machine until this is closed.

        `targets` are `[NAME=]PORT`, `HOST:PORT` or `unix:/PATH`, or a name (empty: the port's
        number) and such a one; `to` the peers that may connect, by default whoever has the key.
        The first response says under which names, and the key; then comes what happens to
        connections.
        """
        from lattica.rpc.ports.endpoints import split_named

        pairs = [split_named(each) if isinstance(each, str) else each for each in targets]
        request = pb.ExposeRequest(
            ports=[pb.ExposePort(name=name or "", target=target) for name, target in pairs],
            to=() if to == "anyone" else to,
            anyone=to == "anyone",
            idle_timeout_seconds=idle_timeout or 0.0,
        )
        return cast("Responses[pb.PortMessage]", self._stream("expose", request))

    def forward(
        self,
        peer: str,
        *ports: str | tuple[str, str],
        key: str = "",
        idle_timeout: float | None = None,
    ) -> Responses[pb.PortMessage]:
        """Connect clients of local ports with services of a peer until this is closed.

        `ports` are numbers or names there, or such a one and where to listen. The first response
        says where it listens; then comes what happens to connections.
        """
        pairs = [(each, "") if isinstance(each, str) else each for each in ports]
        request = pb.ForwardRequest(
            peer=peer,
            ports=[pb.ForwardPort(port=port, local=local) for port, local in pairs],
            key=key,
            idle_timeout_seconds=idle_timeout or 0.0,
        )
        return cast("Responses[pb.PortMessage]", self._stream("forward", request))

    # --- CRDT documents ---

    def crdt_create(
        self, name: str, *, mode: str = "capability", timeout: float | None = None
    ) -> pb.CrdtDocument:
        """Make a document; `mode`: "open", "allow-list" or "capability"."""
        request = pb.CrdtCreateRequest(name=name, mode=mode)
        return cast("pb.CrdtDocument", self._call("crdt_create", request, timeout))

    def crdt_open(
        self,
        document: str,
        *,
        capability: bytes = b"",
        timeout: float | None = None,
        must_exist: bool = False,
    ) -> pb.CrdtDocument:
        """Have it open a document by ID or name, and replicate it from then on; one that
        `must_exist` is not begun there.
        """
        request = pb.CrdtOpenRequest(
            document=document, capability=capability, timeout_seconds=timeout, must_exist=must_exist
        )
        return cast("pb.CrdtDocument", self._call("crdt_open", request, _longer(timeout)))

    def crdt_list(self, *, timeout: float | None = None) -> list[pb.Document]:
        """The documents that it has."""
        return [*self._call("crdt_list", pb.CrdtListRequest(), timeout).documents]

    def crdt_get(
        self, document: str, name: str = "", *, timeout: float | None = None
    ) -> dict[str, Any]:
        """The registers of a document, or the one of that name if it has a value."""
        request = pb.CrdtGetRequest(document=document, name=name)
        reply = self._call("crdt_get", request, timeout)
        return {each.name: unpack(each.value) for each in reply.registers}

    def crdt_set(
        self, document: str, name: str, value: object, *, timeout: float | None = None
    ) -> None:
        """Write a register; None: have it have no value."""
        packed = b"" if value is None else pack(value)
        request = pb.CrdtSetRequest(document=document, name=name, value=packed)
        self._call("crdt_set", request, timeout)

    def crdt_watch(self, document: str, prefix: str = "") -> Responses[pb.CrdtRegister]:
        """Registers as they are, then those that change."""
        request = pb.CrdtWatchRequest(document=document, prefix=prefix)
        return cast("Responses[pb.CrdtRegister]", self._stream("crdt_watch", request))

    def crdt_log(self, document: str) -> Responses[pb.CrdtEntry]:
        """What was written, as far as it is there, by time."""
        request = pb.CrdtLogRequest(document=document)
        return cast("Responses[pb.CrdtEntry]", self._stream("crdt_log", request))

    def crdt_erase(
        self, document: str, entries: Sequence[str], *, timeout: float | None = None
    ) -> int:
        """Have what entries say go, everywhere and for good; how many were not erased before."""
        request = pb.CrdtEraseRequest(document=document, entries=entries)
        return int(self._call("crdt_erase", request, timeout).erased)

    def crdt_prune(
        self, document: str, grace: float = 7 * 86_400, *, timeout: float | None = None
    ) -> pb.CrdtPruneReply:
        """Have it drop entries that are not needed and older than so many seconds; how many, and if
        none, why.
        """
        request = pb.CrdtPruneRequest(document=document, grace_seconds=grace)
        return cast("pb.CrdtPruneReply", self._call("crdt_prune", request, timeout))


def _fetch_request(
    ref: str,
    directory: Path | str,
    tensors: str | None,
    base: Sequence[Path | str],
    share: bool,
    share_for: float,
    rate: float,
    signed_by: str | None,
    **fields: Any,
) -> pb.FetchRequest:
    return pb.FetchRequest(
        ref=ref,
        directory=os.path.abspath(directory),
        tensors=tensors or "",
        base=[os.path.abspath(each) for each in base],
        no_share=not share,
        share_seconds=share_for,
        bytes_per_second=rate,
        signed_by=signed_by or "",
        **fields,
    )


def _longer(timeout: float | None) -> float | None:
    """The node ends it itself, and knows better why; but it might not answer at all."""
    return None if timeout is None else timeout + 1.0


def _error(error: Any) -> Exception:
    """What a failed call means."""
    metadata = dict(error.trailing_metadata() or ())
    code = error.code()
    number = code.value[0] if code is not None else 2
    return error_of(number, error.details() or "", metadata.get(CLASS_KEY, ""))
