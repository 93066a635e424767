"""What a fetch has to write: the files on disk, and where each chunk's bytes go. Pure.

A whole publication is written as it is. With a selection of tensors, every safetensors or
GGUF file that has some becomes a smaller valid one with only those; other files are left out, but
for the index of a sharded checkpoint of which some is selected.
With ranges of bytes, these become a file each file they are of, which is named after them.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property

from lattica.content.download.ranges import ByteRange, ranges_by_file
from lattica.content.errors import ContentError
from lattica.content.manifest.chunking import has_tensors
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.links import parents_of
from lattica.content.manifest.lists import lists_for, loaded_runs
from lattica.content.manifest.manifest import DirectoryEntry, FileEntry, LinkEntry, Manifest
from lattica.content.manifest.paths import check_path
from lattica.content.manifest.tensor_files.gguf_header import (
    PREFIX_BYTES,
    GgufLayout,
    build_gguf_header,
    extents,
)
from lattica.content.manifest.tensor_files.safetensors_header import (
    Tensor,
    TensorLayout,
    build_header,
)
from lattica.content.manifest.tensor_files.shards import is_index
from lattica.content.protocol import MAX_SPAN_BYTES, MAX_SPAN_CHUNKS

_SHOWN_NAMES = 5


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes `source` … `source + length` of a published file go to `target` in the output."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Output:
    """One file to write: `prefix`, then what the segments (by ascending source) bring.

    A second text may lie between the segments: `infix`, at `infix_at`.
    """

    path: str
    executable: bool
    size: int
    prefix: bytes
    segments: tuple[Segment, ...]
    whole: bool
    """It is the published file unchanged, so that chunk hashes verify it."""
    infix: bytes = b""
    infix_at: int = 0
    mode: int | None = None
    """As in :class:`~lattica.content.manifest.manifest.FileEntry`."""

    @property
    def made(self) -> tuple[tuple[int, bytes], ...]:
        """What is made here and not fetched: where it belongs, and its bytes."""
        return (0, self.prefix), (self.infix_at, self.infix)

    @property
    def made_bytes(self) -> int:
        """Bytes of that."""
        return len(self.prefix) + len(self.infix)


@dataclass(frozen=True, slots=True)
class Placement:
    """A part of a chunk (`start`, `length`) and its offset in an output."""

    output: int
    offset: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a finished output, and what they are compared with."""

    number: int
    """The chunk, among those to obtain, that has to be had again when the bytes are wrong."""
    offset: int
    length: int
    digest: bytes | None
    """SHA-256; None where only a part of the chunk is kept, which the manifest cannot tell."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive chunks to ask for at once; they have `size` bytes."""

    first: int
    count: int
    size: int

    @property
    def numbers(self) -> range:
        """Of the chunks."""
        return range(self.first, self.first + self.count)


def _whole_output(file: FileEntry) -> Output:
    segments = (Segment(0, 0, file.size),) if file.size else ()
    return Output(file.path, file.executable, file.size, b"", segments, whole=True, mode=file.mode)


def _matcher(pattern: str) -> Callable[[str], object]:
    r"""A test of names by a glob: `*`, `?`, `[…]`, and a backslash before what is meant itself."""
    # A class of one character is fnmatch's way to say so.
    escaped = re.sub(r"\\([][*?\\])", lambda found: f"[{found[1]}]", pattern)
    return re.compile(translate(escaped)).match


def _check_known(manifest: Manifest) -> None:
    for file in manifest.files:
        if file.layout is None and has_tensors(file.path):
            raise ContentError(
                f"the tensors of {file.path!r} are not known: its publisher could not read its "
                "header, and says why; fetch it without a selection"
            )


def _tensor_output(file: FileEntry, pattern: str) -> Output | None:
    """The file with only the tensors whose names match; None when there is none."""
    if file.layout is None:
        return None
    matches = _matcher(pattern)
    tensors = [t for t in file.layout.tensors if matches(t.name)]
    if not tensors:
        return None
    if isinstance(file.layout, GgufLayout):
        return _gguf_output(file, file.layout, tensors)
    prefix = build_header(file.layout.metadata, tensors)
    segments: list[Segment] = []
    target = len(prefix)
    for tensor in tensors:
        last = segments[-1] if segments else None
        if last is not None and last.source + last.length == tensor.offset:
            segments[-1] = Segment(last.source, last.target, last.length + tensor.length)
        elif tensor.length:
            segments.append(Segment(tensor.offset, target, tensor.length))
        target += tensor.length
    return Output(
        file.path, file.executable, target, prefix, tuple(segments), whole=False, mode=file.mode
    )


def _sharded(manifest: Manifest, pattern: str) -> set[str]:
    """The directories with safetensors files that have some of the tensors."""
    matches = _matcher(pattern)
    found = set()
    for file in manifest.files:
        layout, above = file.layout, file.path.rpartition("/")[0]
        if isinstance(layout, TensorLayout) and any(matches(t.name) for t in layout.tensors):
            found.add(above)
    return found


def _gguf_output(file: FileEntry, layout: GgufLayout, tensors: Sequence[Tensor]) -> Output:
    """The file with all its pairs, and these tensors with what fills them up."""
    prefix, infix = build_gguf_header(layout, tensors)
    pairs = layout.pairs_end - PREFIX_BYTES
    segments = [Segment(PREFIX_BYTES, PREFIX_BYTES, pairs)] if pairs else []
    target = layout.pairs_end + len(infix)
    extent_of = dict(zip(layout.tensors, extents(layout), strict=True))
    for tensor in tensors:
        if extent_of[tensor]:
            segments.append(Segment(tensor.offset, target, extent_of[tensor]))
        target += extent_of[tensor]
    return Output(
        file.path,
        file.executable,
        target,
        prefix,
        tuple(segments),
        whole=False,
        infix=infix,
        infix_at=layout.pairs_end,
        mode=file.mode,
    )


def _range_output(file: FileEntry, parts: Sequence[tuple[int, int]]) -> Output:
    """The bytes of some ranges, one after the other."""
    segments = []
    target = 0
    for start, stop in parts:
        segments.append(Segment(start, target, stop - start))
        target += stop - start
    # As HTTP writes them. The name tells it from the whole file, and from other ranges.
    path = f"{file.path}.{','.join(f'{start}-{stop - 1}' for start, stop in parts)}"
    try:
        check_path(path)
    except ValueError as error:
        raise ContentError(f"cannot name the file of these ranges: {error}") from None
    return Output(path, False, target, b"", tuple(segments), whole=False)


class Plan:
    """Outputs, and where chunks go. A chunk that occurs several times is fetched once."""

    def __init__(
        self,
        cid: Cid,
        manifest: Manifest,
        tensors: str | None = None,
        ranges: Sequence[ByteRange] = (),
    ) -> None:
        """Plan a download of everything, of the tensors that match, or of ranges of bytes.

        Raises:
            ContentError: no tensor matches the pattern `tensors`, or it cannot be told which do; or
                there are no such bytes.
        """
        if tensors is not None:
            _check_known(manifest)
        parts = ranges_by_file(manifest, ranges)
        self._ranges = parts
        self.cid = cid
        self.manifest = manifest
        self.tensors = tensors
        outputs: list[Output] = []
        self._output_of: list[int | None] = []
        """Output by index of the manifest's file."""
        self._file_of: list[int] = []
        """Index of the manifest's file by output."""
        sharded = set() if tensors is None else _sharded(manifest, tensors)
        for index, file in enumerate(manifest.files):
            output: Output | None
            if parts:
                output = _range_output(file, parts[index]) if index in parts else None
            elif tensors is not None:
                is_wanted = is_index(file.path) and file.path.rpartition("/")[0] in sharded
                output = _whole_output(file) if is_wanted else _tensor_output(file, tensors)
            else:
                output = _whole_output(file)
            self._output_of.append(None if output is None else len(outputs))
            if output is not None:
                outputs.append(output)
                self._file_of.append(index)
        if tensors is not None and not outputs:
            raise ContentError(_no_match(manifest, tensors))
        self.outputs: Sequence[Output] = tuple(outputs)

    @property
    def is_whole(self) -> bool:
        """Everything is to be had, and not a selection."""
        return self.tensors is None and not self._ranges

    @property
    def links(self) -> tuple[LinkEntry, ...]:
        """The symbolic links to make: of what is fetched whole."""
        return self.manifest.links if self.is_whole else ()

    @property
    def named_directories(self) -> tuple[DirectoryEntry, ...]:
        """The directories to make, or to give permissions, at the end."""
        return self.manifest.directories if self.is_whole else ()

    def lists(self) -> set[int]:
        """The lists of chunks that have to be loaded, by their numbers, before all that follows."""
        wanted = {
            self._file_of[number]: [(s.source, s.source + s.length) for s in output.segments]
            for number, output in enumerate(self.outputs)
        }
        return lists_for(self.manifest, wanted)

    def published(self, output: int) -> FileEntry:
        """The file that an output, or a part of it, is of."""
        return self.manifest.files[self._file_of[output]]

    def tensor_names(self, output: int) -> frozenset[str]:
        """The tensors that an output of a selection has."""
        layout = self.published(output).layout
        if layout is None or self.tensors is None:
            return frozenset()
        matches = _matcher(self.tensors)
        return frozenset(tensor.name for tensor in layout.tensors if matches(tensor.name))

    @cached_property
    def size(self) -> int:
        """Bytes of all outputs."""
        return sum(output.size for output in self.outputs)

    @cached_property
    def directories(self) -> int:
        """How many directories the outputs are in, below the one that is fetched to."""
        return len(parents_of(output.path for output in self.outputs)) - 1

    @property
    def is_single_file(self) -> bool:
        """Whether a file was published and no directory: it is one of many beside it."""
        manifest = self.manifest
        is_one = len(manifest.files) == 1 and manifest.files[0].path == manifest.name
        return is_one and not manifest.links and not manifest.directories

    @property
    def key(self) -> str:
        """Names this plan on disk: the same for the same content and selection."""
        text = f"{self.cid}\n{self.tensors if self.tensors is not None else ''}"
        if self._ranges:
            text += f"\n{sorted(self._ranges.items())}"
        return (self.family + hashlib.sha256(text.encode()).hexdigest())[:24]

    @property
    def family(self) -> str:
        """With what the keys of all versions of a single file begin; empty: it is none."""
        if not self.is_whole or not self.is_single_file:
            return ""
        return hashlib.sha256(self.outputs[0].path.encode()).hexdigest()[:8]

    @cached_property
    def _first_of(self) -> dict[bytes, int]:
        """Every wanted digest, and the first chunk that has it."""
        firsts: dict[bytes, int] = {}
        for number, digest in self._wanted():
            firsts.setdefault(digest, number)
        return firsts

    @cached_property
    def _repeats(self) -> dict[int, list[int]]:
        """By first chunk, the later ones with the same bytes."""
        repeats: dict[int, list[int]] = {}
        firsts = self._first_of
        for number, digest in self._wanted():
            first = firsts[digest]
            if first != number:
                repeats.setdefault(first, []).append(number)
        return repeats

    def _wanted(self) -> Iterator[tuple[int, bytes]]:
        """(number, digest) of all chunks of which some byte goes somewhere."""
        for output in range(len(self.outputs)):
            yield from self._wanted_by(output)

    def _wanted_by(self, output: int) -> Iterator[tuple[int, bytes]]:
        file_index = self._file_of[output]
        file = self.manifest.files[file_index]
        base = self.manifest.first_chunk(file_index)
        if self.outputs[output].whole:
            indices: Iterable[int] = range(len(file.chunks))
        else:
            indices = self._touched(file, self.outputs[output])
        for index in indices:
            yield base + index, file.chunks.digest(index)

    def pieces(self, output: int) -> Iterator[Piece]:
        """Everything behind the prefix of an output, in the order of its chunks."""
        for number, digest in self._wanted_by(output):
            first = self._first_of[digest]
            length = self.manifest.chunk(number).length
            for place in self._places(number):
                known = digest if place.length == length else None
                yield Piece(first, place.offset, place.length, known)

    @staticmethod
    def _touched(file: FileEntry, output: Output) -> Iterator[int]:
        following = 0
        for segment in output.segments:
            first = max(following, file.chunks.index_at(segment.source))
            following = file.chunks.index_at(segment.source + segment.length - 1) + 1
            yield from range(first, following)

    @property
    def chunks(self) -> Iterable[int]:
        """Numbers of the chunks to obtain, ascending; each has other bytes."""
        return self._first_of.values()

    def number_of(self, digest: bytes) -> int | None:
        """The chunk to obtain that has this digest."""
        return self._first_of.get(digest)

    def placements(self, number: int) -> list[Placement]:
        """Where the bytes of one of :attr:`chunks` go; at least one place."""
        places = self._places(number)
        for repeat in self._repeats.get(number, ()):
            places += self._places(repeat)
        return places

    def same_as(self, number: int) -> list[int]:
        """One of :attr:`chunks`, and the later ones with the same bytes."""
        return [number, *self._repeats.get(number, ())]

    def keeps_whole(self, number: int) -> bool:
        """Whether all bytes of one of :attr:`chunks` lie together in an output."""
        length = self.manifest.chunk(number).length
        return any(place.length == length for place in self.placements(number))

    def _places(self, number: int) -> list[Placement]:
        file_index, index = self.manifest.locate(number)
        output_index = self._output_of[file_index]
        if output_index is None:
            return []
        chunk = self.manifest.files[file_index].chunks[index]
        end = chunk.offset + chunk.length
        segments = self.outputs[output_index].segments
        places = []
        position = max(0, bisect_right(segments, chunk.offset, key=lambda s: s.source) - 1)
        while position < len(segments) and segments[position].source < end:
            segment = segments[position]
            start = max(chunk.offset, segment.source)
            stop = min(end, segment.source + segment.length)
            if start < stop:
                target = segment.target + start - segment.source
                places.append(Placement(output_index, target, start - chunk.offset, stop - start))
            position += 1
        return places

    def spans(self, missing: Iterable[int]) -> Iterator[Span]:
        """Group chunks (ascending numbers) into requests of at most 1 MiB.

        Whatever is missing, no request crosses the border between two of those for everything: what
        one peer has got by a few requests is what another one asks for.
        """
        borders = self._borders
        first = count = size = 0
        for number in missing:
            length = self.manifest.chunk(number).length
            if count and (number != first + count or number in borders):
                yield Span(first, count, size)
                count = size = 0
            if not count:
                first = number
            count += 1
            size += length
        if count:
            yield Span(first, count, size)

    @cached_property
    def _borders(self) -> frozenset[int]:
        """Where requests for all chunks of the manifest begin."""
        borders = []
        count = size = 0
        for first, lengths, begins in loaded_runs(self.manifest):
            if begins:
                count = size = 0
            for number, length in enumerate(lengths, first):
                if not count or size + length > MAX_SPAN_BYTES or count == MAX_SPAN_CHUNKS:
                    borders.append(number)
                    count = size = 0
                count += 1
                size += length
        return frozenset(borders)


def _no_match(manifest: Manifest, pattern: str) -> str:
    names = [t.name for file in manifest.files if file.layout for t in file.layout.tensors]
    if not names:
        return f"{manifest.name!r} has no tensors to select; fetch it without a selection"
    some = ", ".join(names[:_SHOWN_NAMES]) + (", …" if len(names) > _SHOWN_NAMES else "")
    hint = r"; brackets that belong to a name are written \[ and \]" if "[" in pattern else ""
    return f"none of the {len(names)} tensors matches {pattern!r}; there are {some}{hint}"
