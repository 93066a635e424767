"""Publishing and fetching."""

from __future__ import annotations

import math
from pathlib import Path

from lattica.content.download.finding import parse_ref
from lattica.content.download.options import FetchOptions, FetchResult
from lattica.content.download.ranges import ByteRange
from lattica.content.events import (
    FetchEvent,
    FetchProgress,
    FetchStarted,
    HashProgress,
    Retrying,
    Sharing,
)
from lattica.content.hub.repository import RevisionRef
from lattica.content.names.registry import RegistryRef
from lattica.daemon.api.methods.base import Emit, MemberMethods
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.daemon.api.status import publications
from lattica.nat.base.errors import LatticaError, LocalProtocolError
from lattica.nat.base.keys.peer_id import parse_peer_id
from lattica.nat.base.printable import printable


class ContentMethods(MemberMethods):
    """See `node.proto`."""

    async def publish(self, request: pb.PublishRequest, emit: Emit[pb.PublishProgress]) -> None:
        path = _absolute(request.path)

        def progress(event: HashProgress) -> None:
            emit.offer(
                pb.PublishProgress(bytes_done=event.bytes_done, bytes_total=event.bytes_total)
            )

        member, name = self.member, request.name or None
        follow_links, sign = request.follow_links, request.sign
        rate = request.bytes_per_second or math.inf
        repo = RevisionRef.parse(request.repo) if request.repo else None
        used_as: RegistryRef | None = None
        if request.registry:
            registry = RegistryRef.parse(request.registry)
            ticket, used_as = await member.publish_in(
                registry,
                path,
                name,
                progress,
                follow_links=follow_links,
                sign=sign,
                rate=rate,
                repo=repo,
            )
        else:
            ticket = await member.publish(
                path, name, progress, follow_links=follow_links, sign=sign, rate=rate, repo=repo
            )
        [made] = [each for each in publications(member) if each.cid == str(ticket.cid)]
        if used_as is not None:
            made.registry = str(used_as)
        if repo is not None:
            made.repo = str(repo)
        await emit.send(
            pb.PublishProgress(bytes_done=made.bytes, bytes_total=made.bytes, publication=made)
        )

    async def unpublish(self, request: pb.UnpublishRequest) -> pb.UnpublishReply:
        self.member.content.unpublish(parse_ref(request.ref))
        return pb.UnpublishReply()

    async def fetch(self, request: pb.FetchRequest, emit: Emit[pb.FetchProgress]) -> None:
        result = await self.member.fetch(
            request.ref,
            _absolute(request.directory),
            request.tensors or None,
            _options(request),
            lambda event: emit.offer(_progress(event)),
            ranges=[*map(_range, request.ranges)],
        )
        await emit.send(_there(result))

    async def follow(self, request: pb.FetchRequest, emit: Emit[pb.FetchProgress]) -> None:
        if request.ranges:
            raise LocalProtocolError("ranges of files are fetched once, and not followed")

        async def is_there(result: FetchResult) -> None:
            await emit.send(_there(result))

        async def has_failed(error: LatticaError) -> None:
            await emit.send(pb.FetchProgress(phase="failed", error=printable(str(error))))

        await self.member.follow(
            request.ref,
            _absolute(request.directory),
            request.tensors or None,
            _options(request),
            lambda event: emit.offer(_progress(event)),
            on_version=is_there,
            on_problem=has_failed,
        )


def _options(request: pb.FetchRequest) -> FetchOptions:
    return FetchOptions(
        delete_former=request.delete_former,
        delete_matching=tuple(request.delete_matching),
        replace_tensors=request.replace_tensors,
        base=tuple(map(_absolute, request.base)),
        share=not request.no_share,
        share_for=request.share_seconds,
        rate=request.bytes_per_second or math.inf,
        signed_by=parse_peer_id(request.signed_by) if request.signed_by else None,
    )


def _there(result: FetchResult) -> pb.FetchProgress:
    return pb.FetchProgress(
        phase="done",
        bytes_done=result.bytes_total,
        bytes_total=result.bytes_total,
        bytes_fetched=result.bytes_fetched,
        done=_done(result),
    )


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():  # the daemon's current directory is nobody's business
        raise LocalProtocolError(f"not an absolute path: {text!r:.200}")
    return path


def _range(message: pb.ByteRange) -> ByteRange:
    return ByteRange(
        message.start,
        message.stop if message.HasField("stop") else None,
        message.path if message.HasField("path") else None,
    )


def _progress(event: FetchEvent) -> pb.FetchProgress:
    message = pb.FetchProgress(
        phase=event.phase, bytes_done=event.bytes_done, bytes_total=event.bytes_total
    )
    match event:
        case FetchStarted():
            message.name = event.name
            message.files, message.directories = event.files, event.directories
        case FetchProgress():
            message.bytes_fetched, message.sources = event.bytes_fetched, event.sources
            message.bytes_per_second = event.rate
        case Retrying():
            message.error, message.seconds = event.error, event.delay
        case Sharing():
            message.seconds = event.seconds
        case _:
            pass
    return message


def _done(result: FetchResult) -> pb.FetchDone:
    return pb.FetchDone(
        cid=str(result.cid),
        name=result.name,
        paths=map(str, result.paths),
        bytes_total=result.bytes_total,
        bytes_fetched=result.bytes_fetched,
        seconds=result.seconds,
        sources=[
            pb.FetchSource(peer_id=str(each.peer_id), bytes_fetched=each.bytes_fetched)
            for each in result.sources
        ],
        bytes_shared=result.bytes_shared,
        other_files=map(str, result.other_files),
        former_files=map(str, result.former_files),
        removed_files=map(str, result.removed_files),
        directory_cut=result.directory_cut,
    )
