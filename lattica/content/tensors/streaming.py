"""Tensors of a publication in the order of its files, each as soon as it is whole and verified."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import trio

from lattica.content.download.finding import FoundManifest, find_manifest, find_others, named_by
from lattica.content.download.options import FetchOptions
from lattica.content.download.plan import Plan
from lattica.content.download.providers.contact import Contact
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.tensor_files.safetensors_header import Tensor
from lattica.content.swarm.providers import ProviderFinder
from lattica.content.tensors.drawing import TensorDraw, drawn
from lattica.content.tensors.placing import Destination, Placed, Placing, fresh_memory
from lattica.content.ticket import Ticket
from lattica.nat.swarm.host import Host


@dataclass(frozen=True, slots=True)
class RemoteTensors:
    """The tensors of a publication whose manifest is here; made by :func:`open_tensors`."""

    cid: Cid
    found: FoundManifest
    options: FetchOptions
    node: Host
    finder: ProviderFinder | None
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
        manifest, window = self.found.manifest, self.options.window
        placing = await trio.to_thread.run_sync(Placing, manifest, tensors, destination, window)
        draw = TensorDraw(
            self.node, self.cid, self.found, self.options, self.finder, self.find_more, placing
        )
        async with aclosing(drawn(draw)) as found:
            async for one in found:
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

    return RemoteTensors(cid, found, options, node, finder, find_more)


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

    Memory: what was asked for, at most `FetchOptions.window` beyond the tensor whose turn it is,
    that tensor, and what the caller keeps; a caller that takes its time slows the providers down.
    It is drawn from all who have some of it, as by a fetch, and not served to others.

    Close it (`contextlib.aclosing`) to stop before the end. Raises what `fetch` does, and
    :class:`~lattica.errors.ContentError` if no tensor matches.
    """
    opened = await open_tensors(node, ref, tensors, options=options, finder=finder)
    async with aclosing(opened.stream(opened.placed(tensors))) as found:
        async for one in found:
            yield one
