"""Tensors of a publication in the order of its files, each as soon as it is whole and verified."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from lattica.content.download.contact import Contact
from lattica.content.download.fetcher import (
    FoundManifest,
    find_manifest,
    find_others,
    named_by,
)
from lattica.content.download.options import FetchOptions
from lattica.content.download.plan import Plan
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.tensor_files.safetensors_header import Tensor
from lattica.content.swarm.providers import ProviderFinder
from lattica.content.tensors.assembly import (
    Assembly,
    Destination,
    Placed,
    chunks_of,
    fresh_memory,
)
from lattica.content.tensors.reader import SpanReader
from lattica.content.ticket import Ticket
from lattica.nat.swarm.host import Host


@dataclass(frozen=True, slots=True)
class RemoteTensors:
    """The tensors of a publication whose manifest is here; made by :func:`open_tensors`."""

    cid: Cid
    found: FoundManifest
    options: FetchOptions
    find_more: Callable[[], Awaitable[Sequence[Contact]]]
    """Others who may have it."""

    def placed(self, pattern: str = "*") -> list[Placed]:
        """The tensors whose names match a glob (as in `fetch`), in the order of their bytes.

        Raises :class:`~lattica.errors.ContentError`: none does, or it cannot be told.
        """
        manifest = self.found.manifest
        plan = Plan(self.cid, manifest, pattern)
        wanted = {output.path: plan.tensor_names(n) for n, output in enumerate(plan.outputs)}
        return [
            Placed(index, tensor)
            for index, file in enumerate(manifest.files)
            if file.layout is not None
            for tensor in file.layout.tensors
            if tensor.name in wanted.get(file.path, ())
        ]

    async def stream(
        self, tensors: Sequence[Placed], destination: Destination = fresh_memory
    ) -> AsyncGenerator[tuple[Tensor, memoryview], None]:
        """These tensors, with their bytes in the memory that `destination` gives for each."""
        manifest = self.found.manifest
        assembly = Assembly(manifest, tensors, destination)
        spans = await trio.to_thread.run_sync(
            lambda: list(Plan(self.cid, manifest).spans(chunks_of(manifest, tensors)))
        )
        async with SpanReader(self.cid, self.found, self.options, spans, self.find_more) as reader:
            for one in assembly.empty():
                yield one
            while (chunks := await reader.next()) is not None:
                for number, data in chunks:
                    for one in assembly.add(number, data):
                        yield one
                    for one in assembly.empty():
                        yield one


async def open_tensors(
    node: Host,
    ref: Ticket | Cid | str,
    pattern: str = "*",
    *,
    options: FetchOptions | None = None,
    finder: ProviderFinder | None = None,
) -> RemoteTensors:
    """Get the manifest of what a ticket, or a content id, names, and as much of its lists of chunks
    as the tensors need whose names match. Raises what `fetch` does."""
    cid, named = named_by(ref)
    options = options or FetchOptions()
    found = await find_manifest(
        node,
        cid,
        named,
        options=options,
        finder=finder,
        reads_here=True,
        select=lambda manifest: Plan(cid, manifest, pattern).lists(),
    )

    async def find_more() -> Sequence[Contact]:
        members = await find_others(node, cid, named, options=options, finder=finder)
        return [Contact(node, member.peer_id, member.addrs) for member in members]

    return RemoteTensors(cid, found, options, find_more)


async def stream_tensors(
    node: Host,
    ref: Ticket | Cid | str,
    tensors: str = "*",
    *,
    options: FetchOptions | None = None,
    finder: ProviderFinder | None = None,
) -> AsyncGenerator[tuple[Tensor, memoryview], None]:
    """The tensors of a publication, in the order of its files, while it downloads.

    Yields (name, type and shape; the elements, little endian, in C order, which are the caller's)
    as soon as all of a tensor has come and has the right hash: a model is loaded while the rest is
    under way. `tensors` is a glob as in :func:`~lattica.content.fetch`; only chunks that have some
    of a selected tensor are fetched. Nothing is written to disk.

    Memory: what is under way, at most `FetchOptions.window`, the one tensor that is being put
    together, and what the caller keeps; a caller that takes its time slows the provider down. It
    is had from one provider at a time, and from the next one where that fails.

    Close it (`contextlib.aclosing`) to stop before the end. Raises what `fetch` does, and
    :class:`~lattica.errors.ContentError` if no tensor matches.
    """
    opened = await open_tensors(node, ref, tensors, options=options, finder=finder)
    async for one in opened.stream(opened.placed(tensors)):
        yield one
