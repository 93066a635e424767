"""The documents of a node: opened by name or ID, made, and served to peers."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from lattica.crdt.config import StoreConfig
from lattica.crdt.entries.genesis import Genesis, Limits, Mode, Recovery, decode_genesis
from lattica.crdt.entries.header import Kind
from lattica.crdt.keys.identities import identity_key
from lattica.crdt.log.config import LogConfig
from lattica.crdt.log.disk.replica import Replica
from lattica.crdt.log.disk.schema import read_genesis
from lattica.crdt.log.errors import StoreError
from lattica.crdt.store.replication.wire import (
    blame,
    open_about,
    receive,
    receive_hello,
    send_bytes,
    welcome,
)
from lattica.crdt.store.shared_document import SharedDocument
from lattica.crdt.store.surroundings import Discovery, Topic, Topics
from lattica.crdt.store.turns import in_turns
from lattica.crdt.sync.messages import (
    ABSENT,
    PROTOCOL,
    GenesisMessage,
    Purpose,
    encode_genesis_message,
    find_key,
)
from lattica.nat.base.checks import check_several, check_timeout, check_type
from lattica.nat.base.concurrency.exception_groups import leaves
from lattica.nat.base.errors import (
    LatticaError,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceLimitError,
)
from lattica.nat.base.keys.identity import Identity, PeerId
from lattica.nat.base.peer_log import peer_log
from lattica.nat.mux.stream import Stream
from lattica.nat.swarm.host import Host

logger = logging.getLogger(__name__)

_ID: Final = re.compile(r"[0-9a-f]{64}")
_SALT_BYTES: Final = 16
_ASK_AGAIN: Final = 1.0
"""Seconds after which a peer is asked again for what a document is."""
_LOOK_AGAIN: Final = 0.2
"""Seconds after which it is looked whether others have connected."""
_LARGE: Final = 1024 * 1024
"""Bytes of a file that is read in a thread."""
_CONNECT_TIMEOUT: Final = 30.0
"""Seconds that a peer has which was found."""


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document whose file is here."""

    id: str
    name: str
    mode: Mode
    is_open: bool


class Store:
    """Documents that are replicated with every peer that has them open. For the trio thread only.

    ::

        document = await node.store.open("cluster")
        document.registers["model/latest"] = "v7"
        await document.synced(timeout=10)

    Made by :class:`lattica.Node`, as `node.store`.

    Args:
        host: the node.
        nursery: where documents are replicated.
        identity: whose entries are written here.
        folder: where the files are.
        topics: along which news of open documents goes; None: directly to each connected peer that
            has the document, as that of others always does, since who hears a topic is not asked
            for his rights.
        discovery: where peers that have a document are found; None: among those connected.
    """

    def __init__(
        self,
        host: Host,
        nursery: trio.Nursery,
        identity: Identity,
        folder: Path,
        config: StoreConfig | None = None,
        *,
        topics: Topics | None = None,
        discovery: Discovery | None = None,
        log_config: LogConfig | None = None,
    ) -> None:
        self.config = config or StoreConfig()
        self.folder = folder
        self._host = host
        self._nursery = nursery
        self._identity = identity
        self._topics = topics
        self._discovery = discovery
        self._log_config = log_config
        self._open: dict[bytes, SharedDocument] = {}
        self._borrowers: dict[SharedDocument, int] = {}
        """How many use one that nobody has opened for longer."""
        self._opening = trio.Lock()
        self._is_closed = False
        self._running = 0
        self._ended = trio.Event()
        host.handle(PROTOCOL, self._serve, owner="store")

    # What users do.

    async def open(
        self,
        document: str,
        *,
        capability: bytes | None = None,
        timeout: float = 30.0,
        must_exist: bool = False,
    ) -> SharedDocument:
        """Open a document, and replicate it from now on.

        Args:
            document: an ID (64 hexadecimal digits), or a name: of a document that is in this
                store, or else of the one that everybody may write to and that has this name
                everywhere.
            capability: what an owner has handed over (:meth:`Document.grant`), if it did, or the
                appointment of this peer as an owner; it is kept.
            timeout: seconds to look for a peer that knows what the document with this ID is,
                if it is not in this store.
            must_exist: whether to look for a document that is named by its name, too; otherwise
                the one that everybody may write to is begun here if it is not in this store.

        One that is open already is given again; `close` closes it for all. What it comes to is
        resolved when this returns; reading and resolving a large file, the node goes on.

        Raises:
            TimeoutError: no peer has it.
            LocalProtocolError: several documents here have this name, or the store has ended.
            ResourceLimitError: too many are open.
            StoreInUseError, StoreError: its file cannot be used.
        """
        opened, _ = await self._opened(await self._find(document, timeout, must_exist))
        self._borrowers.pop(opened, None)
        await in_turns(opened.resolving())
        if capability is not None:
            opened.present(capability)
            self._write(self._capability_path(opened.genesis.doc_id), capability)
        return opened

    @asynccontextmanager
    async def borrowed(
        self, document: str, *, timeout: float = 30.0
    ) -> AsyncIterator[SharedDocument]:
        """Open a document for a block, as :meth:`open` does.

        At its end it is closed, unless it was open before, others still borrow it, or somebody has
        opened it meanwhile.
        """
        opened, is_new = await self._opened(await self._find(document, timeout))
        if is_new or opened in self._borrowers:
            self._borrowers[opened] = self._borrowers.get(opened, 0) + 1
        try:
            await in_turns(opened.resolving())
            yield opened
        finally:
            if opened in self._borrowers:
                self._borrowers[opened] -= 1
                if not self._borrowers[opened]:
                    del self._borrowers[opened]
                    opened.close()

    async def create(
        self,
        name: str,
        *,
        mode: Mode = Mode.CAPABILITY,
        owners: Sequence[PeerId | str | bytes] | None = None,
        kinds: Sequence[Kind] = (),
        limits: Limits | None = None,
        recovery: Recovery | None = None,
        is_sealed: bool = False,
    ) -> SharedDocument:
        """Make a document that is none of those there are, and open it.

        Args:
            name: for people, 1 to 256 bytes of UTF-8.
            mode: who may write; in an open one everybody who knows the ID.
            owners: peers who grant rights; by default this node.
            kinds: the kinds of entries that take effect; none given: all.
            limits: what one entry and one author may have.
            recovery: who appoints another owner (:meth:`Document.appoint`) after one has
                contradicted himself; without it he goes on as another session.
            is_sealed: whether payloads are encrypted for those who may read, so that peers with the
                level `PULL` can have the document and pass it on. Not of an open one.

        Raises:
            LocalProtocolError: something of it is outside what the format allows.
            ResourceLimitError: too many are open.
            StoreError: its file cannot be made.
        """
        self._check_running()
        check_type("name", name, str, "a text")
        check_type("mode", mode, Mode, "a Mode")
        if owners is not None:
            check_several("owners", owners, "a list of peers")
        for kind in kinds:
            check_type("kinds", kind, Kind, "a list of Kind")
        keys = [self._identity.public_key.data] if owners is None else [*map(identity_key, owners)]
        genesis = Genesis(
            name,
            tuple(sorted(set(keys))),
            mode,
            tuple(sorted(set(kinds))),
            limits or Limits(),
            recovery,
            os.urandom(_SALT_BYTES),
            is_sealed,
        )
        await trio.lowlevel.checkpoint()
        opened, _ = await self._opened(genesis)
        return opened

    def documents(self) -> list[StoredDocument]:
        """The documents whose files are here, by name."""
        found = [
            StoredDocument(each.doc_id.hex(), each.name, each.mode, each.doc_id in self._open)
            for each in self._stored()
        ]
        return sorted(found, key=lambda each: (each.name, each.id))

    def opened(self) -> list[SharedDocument]:
        """The documents that are open."""
        return [each for each in self._open.values() if each.is_open]

    async def aclose(self) -> None:
        """Close all documents; nothing can be opened afterwards."""
        if not self._is_closed:
            self._is_closed = True
            self._host.unhandle(PROTOCOL, owner="store")
        for document in [*self._open.values()]:
            document.close()
        while self._running:
            self._ended = trio.Event()
            await self._ended.wait()

    # Files.

    def _known(self, document: str) -> Genesis | None:
        """What is in this store and is meant."""
        if _ID.fullmatch(document):
            doc_id = bytes.fromhex(document)
            if doc_id in self._open:
                return self._open[doc_id].genesis
            return self._read_genesis(self._genesis_path(doc_id))
        named = [genesis for genesis in self._stored() if genesis.name == document]
        if len(named) > 1:
            ids = ", ".join(genesis.doc_id.hex() for genesis in named)
            raise LocalProtocolError(f"several documents here are called {document!r}: {ids}")
        return named[0] if named else None

    def _stored(self) -> Iterator[Genesis]:
        for path in sorted(self.folder.glob("*.genesis")):
            genesis = self._read_genesis(path)
            if genesis is not None:
                yield genesis

    def _genesis_path(self, doc_id: bytes) -> Path:
        return self.folder / f"{doc_id.hex()}.genesis"

    def _read_genesis(self, path: Path) -> Genesis | None:
        try:
            return decode_genesis(path.read_bytes(), bytes.fromhex(path.stem))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, RemoteProtocolError) as error:
            logger.warning("%s is damaged, and is not looked at: %s", path, error)
        return self._genesis_of_file(path)

    def _genesis_of_file(self, path: Path) -> Genesis | None:
        """What a document's own file says that it is, for a genesis that is damaged or gone."""
        try:
            genesis = read_genesis(path.with_suffix(".sqlite3"))
        except StoreError:
            return None
        if genesis.doc_id.hex() != path.stem:
            return None
        self._write(path, genesis.encode())
        return genesis

    def _keep_genesis(self, genesis: Genesis) -> None:
        path = self._genesis_path(genesis.doc_id)
        if self._read_genesis(path) is None:
            self._write(path, genesis.encode())

    def _capability_path(self, doc_id: bytes) -> Path:
        return self.folder / f"{doc_id.hex()}.capability"

    def _write(self, path: Path, data: bytes) -> None:
        aside = path.with_suffix(".new")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from None

    # Open documents.

    def _check_running(self) -> None:
        if self._is_closed:
            raise LocalProtocolError("the store has ended with its node")

    async def _find(self, document: str, timeout: float, must_exist: bool = False) -> Genesis:
        """What a document is that has this ID or name. Raises as :meth:`open` does."""
        self._check_running()
        check_type("document", document, str, "an ID or a name")
        seconds = check_timeout(timeout)
        await trio.lowlevel.checkpoint()
        known = self._known(document)
        if known is not None:
            return known
        if _ID.fullmatch(document):
            doc_id = bytes.fromhex(document)
        else:
            open_to_all = Genesis(document)
            if not must_exist:
                return open_to_all
            doc_id = open_to_all.doc_id
        found = await self._ask_for(doc_id, seconds)
        if found is None:
            asked = f", and no peer was found within {seconds:g} s that has it" if seconds else ""
            raise TimeoutError(f"no document {document!r} is here{asked}")
        return found

    async def _opened(self, genesis: Genesis) -> tuple[SharedDocument, bool]:
        """The document, and whether it is open only now."""
        async with self._opening:
            self._check_running()
            document = self._open.get(genesis.doc_id)
            if document is not None and document.is_open:
                return document, False
            count = sum(each.is_open for each in self._open.values())
            if count >= self.config.max_documents:
                raise ResourceLimitError(f"{count} documents are open, as many as may be")
            self._keep_genesis(genesis)
            path = self.folder / f"{genesis.doc_id.hex()}.sqlite3"
            replica = await self._read(path, genesis)
            if self._is_closed:
                replica.close()
            self._check_running()
            document = SharedDocument(
                path,
                genesis,
                self._identity,
                self._host,
                self.config,
                topic=self._topic_of(genesis),
                discovery=self._discovery,
                replica=replica,
            )
            self._present_kept(document)
            self._open[genesis.doc_id] = document
            self._running += 1
            self._nursery.start_soon(self._run, document)
            return document, True

    async def _read(self, path: Path, genesis: Genesis) -> Replica:
        """What is in a document's file; a large one is read in a thread, and all of it is
        verified, while the node goes on.
        """

        def read() -> Replica:
            return Replica(path, genesis, self._identity, self._log_config)

        return read() if _size(path) < _LARGE else await trio.to_thread.run_sync(read)

    def _topic_of(self, genesis: Genesis) -> Topic | None:
        if self._topics is None or genesis.mode is not Mode.OPEN:
            return None
        return self._topics(f"lattica/crdt/{find_key(genesis.doc_id).hex()}")

    def _present_kept(self, document: SharedDocument) -> None:
        path = self._capability_path(document.genesis.doc_id)
        try:
            document.present(path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, LocalProtocolError) as error:
            logger.warning("%s is not used: %s", path, error)

    async def _run(self, document: SharedDocument) -> None:
        try:
            await document.run()
        except BaseException as error:
            # A defect costs the document, not the node.
            if not all(isinstance(leaf, Exception) for leaf in leaves(error)):
                raise
            logger.exception("internal error in the store document=%s", document.id)
        finally:
            try:
                document.close()
            finally:  # whatever failed: `aclose` waits for it
                if self._open.get(document.genesis.doc_id) is document:
                    del self._open[document.genesis.doc_id]
                self._running -= 1
                self._ended.set()

    # Peers.

    async def _serve(self, stream: Stream) -> None:
        try:
            await self._answer(stream)
        except TimeoutError as error:
            peer = stream.peer_id
            peer_log.log(logger, logging.INFO, peer, "stream reset: %s peer=%s", error, peer)
            stream.reset(f"{error}")

    async def _answer(self, stream: Stream) -> None:
        found = await receive_hello(self._host, stream, [*self._open])
        if found is None:
            return
        hello, doc_id = found
        document = self._open.get(doc_id)
        if document is None:
            return
        if hello.purpose is not Purpose.GENESIS and not document.may_pull(
            stream.peer_id, hello.capability
        ):
            await stream.send_message(ABSENT)
            for message in document.standing_of(stream.peer_id, hello.capability):
                await send_bytes(stream, message)
            return
        await welcome(self._host, stream, hello, doc_id, document.capability)
        if hello.purpose is Purpose.GENESIS:
            await stream.send_message(encode_genesis_message(document.genesis.encode()))
            return
        if document.is_open:
            await document.replicator.serve(stream, hello)

    async def _ask_for(self, doc_id: bytes, timeout: float) -> Genesis | None:
        """The genesis of a document, from whoever has it."""
        found: list[Genesis] = []
        with trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                asked: set[PeerId] = set()

                async def ask(peer: PeerId) -> None:
                    # It may open the document any time, and is asked for as long as it is there.
                    while self._host.path(peer) is not None:
                        genesis = await self._ask(peer, doc_id)
                        if genesis is not None:
                            found.append(genesis)
                            nursery.cancel_scope.cancel()
                        await trio.sleep(_ASK_AGAIN)
                    asked.discard(peer)

                def ask_soon(peer: PeerId) -> None:
                    if peer not in asked and peer != self._host.peer_id:
                        asked.add(peer)
                        nursery.start_soon(ask, peer)

                if self._discovery is not None:
                    nursery.start_soon(self._look_for, self._discovery, doc_id)
                while True:
                    for status in self._host.peers():
                        ask_soon(status.peer_id)
                    await trio.sleep(_LOOK_AGAIN)
        return found[0] if found else None

    async def _ask(self, peer: PeerId, doc_id: bytes) -> Genesis | None:
        try:
            opened = await open_about(self._host, peer, doc_id, Purpose.GENESIS)
            if opened is None:
                return None
            async with opened[0] as stream:
                match await receive(stream):
                    case GenesisMessage(genesis):
                        return decode_genesis(genesis, doc_id)
                raise RemoteProtocolError("another message where a genesis was asked for")
        except RemoteProtocolError as error:
            blame(peer, error)
        except (LatticaError, TimeoutError) as error:
            logger.debug("a peer did not say what a document is peer=%s reason=%r", peer, error)
        return None

    async def _look_for(self, discovery: Discovery, doc_id: bytes) -> None:
        while True:
            try:
                async for peer in discovery.find(find_key(doc_id)):
                    if peer != self._host.peer_id:
                        with trio.move_on_after(_CONNECT_TIMEOUT):
                            await self._host.connect(peer)
            except (LatticaError, TimeoutError) as error:
                logger.debug("no peers were found reason=%r", error)
            await trio.sleep(_ASK_AGAIN)


def _size(path: Path) -> int:
    """Bytes of a document's file, with what is not in it yet."""
    files = (path, path.with_name(path.name + "-wal"))
    return sum(each.stat().st_size for each in files if each.exists())
