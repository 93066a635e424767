"""CRDT documents: their registers."""

from __future__ import annotations

from lattica.crdt.entries.genesis import Mode
from lattica.crdt.entries.header import Kind
from lattica.crdt.store.changes import Rebuilt
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.types.state import Change
from lattica.daemon.api.methods.base import Emit, MemberMethods
from lattica.daemon.api.pb import node_pb2 as pb
from lattica.daemon.api.status import documents, mode_name
from lattica.daemon.api.values import pack, unpack
from lattica.nat.base.errors import LocalProtocolError

_MODES = {mode_name(mode): mode for mode in Mode}


class CrdtMethods(MemberMethods):
    """See `node.proto`."""

    async def crdt_create(self, request: pb.CrdtCreateRequest) -> pb.CrdtDocument:
        mode = _MODES.get(request.mode or "capability")
        if mode is None:
            raise LocalProtocolError(f"mode: one of {', '.join(_MODES)}, not {request.mode!r:.100}")
        made = await self.node.store.create(request.name, mode=mode)
        self.member.keep(made)
        return _document(made)

    async def crdt_open(self, request: pb.CrdtOpenRequest) -> pb.CrdtDocument:
        opened = await self.member.open_document(
            request.document,
            capability=request.capability or None,
            timeout=request.timeout_seconds if request.HasField("timeout_seconds") else 30.0,
            must_exist=request.must_exist,
        )
        return _document(opened)

    async def crdt_list(self, request: pb.CrdtListRequest) -> pb.CrdtListReply:
        return pb.CrdtListReply(documents=documents(self.member))

    async def crdt_get(self, request: pb.CrdtGetRequest) -> pb.CrdtGetReply:
        document = await self.member.open_document(request.document)
        registers = document.registers
        names = [request.name] if request.name else [*registers]
        return pb.CrdtGetReply(
            registers=[_register(document, name) for name in names if name in registers]
        )

    async def crdt_set(self, request: pb.CrdtSetRequest) -> pb.CrdtSetReply:
        document = await self.member.open_document(request.document)
        if request.value:
            document.registers[request.name] = unpack(request.value)
        elif request.name in document.registers:
            del document.registers[request.name]
        return pb.CrdtSetReply()

    async def crdt_watch(self, request: pb.CrdtWatchRequest, emit: Emit[pb.CrdtRegister]) -> None:
        document = await self.member.open_document(request.document)
        with document.changes() as changes:
            await _tell_all(document, request.prefix, emit)
            async for change in changes:
                if isinstance(change, Rebuilt):
                    await _tell_all(document, request.prefix, emit)
                elif (
                    isinstance(change, Change)
                    and change.kind is Kind.REGISTER
                    and change.name.startswith(request.prefix)
                ):
                    await emit.send(_register(document, change.name))

    async def crdt_log(self, request: pb.CrdtLogRequest, emit: Emit[pb.CrdtEntry]) -> None:
        document = await self.member.open_document(request.document)
        for each in [*document.entries()]:
            await emit.send(
                pb.CrdtEntry(
                    id=each.id,
                    milliseconds=each.milliseconds,
                    peer_id=str(each.peer),
                    session=each.author,
                    seq=each.seq,
                    kind=each.kind,
                    name=each.name,
                    size=each.size,
                    is_erased=each.is_erased,
                )
            )

    async def crdt_erase(self, request: pb.CrdtEraseRequest) -> pb.CrdtEraseReply:
        document = await self.member.open_document(request.document)
        return pb.CrdtEraseReply(erased=document.erase(*request.entries))

    async def crdt_prune(self, request: pb.CrdtPruneRequest) -> pb.CrdtPruneReply:
        document = await self.member.open_document(request.document)
        has_grace = request.HasField("grace_seconds")
        grace = (request.grace_seconds,) if has_grace else ()
        pruned = await document.prune_in_turns(*grace)
        return pb.CrdtPruneReply(pruned=pruned, why="" if pruned else document.why_not_pruned())


async def _tell_all(document: SharedDocument, prefix: str, emit: Emit[pb.CrdtRegister]) -> None:
    for name in [*document.registers]:
        if name.startswith(prefix):
            await emit.send(_register(document, name))


def _register(document: SharedDocument, name: str) -> pb.CrdtRegister:
    registers = document.registers
    return pb.CrdtRegister(name=name, value=pack(registers[name]) if name in registers else b"")


def _document(document: SharedDocument) -> pb.CrdtDocument:
    return pb.CrdtDocument(
        id=document.id, name=document.name, mode=mode_name(document.genesis.mode)
    )
