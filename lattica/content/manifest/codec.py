"""The bytes of a manifest: canonical msgpack, and a strict, bounded parser of it.

Form (arrays only, so that there is one encoding)::

    [2, name, [file, …]]
    [2, name, [file, …], [link, …], [directory, …]]               if there are some
    [2, name, [file, …], [link, …], [directory, …], signature]    if it is signed
    file   = [path, mode, chunks, layout]
    link   = [path, target]
    directory = [path, mode]
    chunks = [0, lengths, digests], or [count, sizes, digests]
    layout = [data_start, [[key, value], …], tensors]           of safetensors
           | [version, pairs, pairs_end, alignment, tensors]    of GGUF
           | []                                                 of other files
    tensors = [[name, dtype, [dimension, …]], …]

`lengths` holds 4 bytes (big endian) a chunk, `digests` 32 bytes a chunk. With a `count` of chunks
these are in lists (:mod:`~lattica.content.manifest.lists`, which says when): `sizes` are 8 bytes
(big endian) a list, of the chunks in it, and `digests` 32 bytes a list. A file's size and a
tensor's offset follow from these. The parser reads along the schema: what an array header
promises is checked against a limit, and nothing is allocated for it before its elements are
there; what it accepts encodes to the very same bytes again.
"""

from __future__ import annotations

from dataclasses import replace

import msgpack

from lattica.content.errors import ContentError
from lattica.content.manifest.big_endian import pack_numbers, unpack_numbers
from lattica.content.manifest.cid import DIGEST_SIZE, Cid
from lattica.content.manifest.links import check_links
from lattica.content.manifest.lists import refs_of, table_of
from lattica.content.manifest.manifest import (
    LIST_CHUNKS,
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_MODE,
    MAX_TENSORS,
    Chunks,
    ChunkTable,
    DirectoryEntry,
    FileEntry,
    Layout,
    LinkEntry,
    ListedChunks,
    ListRef,
    Manifest,
    is_listed,
)
from lattica.content.manifest.paths import check_component, check_paths
from lattica.content.manifest.schema_reader import SchemaReader
from lattica.content.manifest.tensor_files.gguf_header import (
    MAX_ALIGNMENT,
    MAX_PAIR_BYTES,
    MAX_PAIRS,
    PREFIX_BYTES,
    VERSIONS,
    GgufLayout,
    gguf_layout,
)
from lattica.content.manifest.tensor_files.safetensors_header import (
    LENGTH_BYTES,
    MAX_DIMENSION,
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    layout_from_shapes,
)
from lattica.nat.base.errors import RemoteProtocolError
from lattica.nat.base.keys.envelope import open_envelope
from lattica.nat.base.keys.peer_id import PeerId

VERSION = 2
SIGNATURE_DOMAIN = "lattica-manifest"
SIGNATURE_TYPE = b"/lattica/manifest"

_MAX_SIGNATURE = 4096
"""Bytes: of RSA keys, too."""
_USUAL = {False: 0o644, True: 0o755}
"""What a file's mode is written as, where it has a usual one: if it is executable or not."""


def _pack_layout(layout: Layout | None) -> list[object]:
    if layout is None:
        return []
    tensors = [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in layout.tensors]
    if isinstance(layout, GgufLayout):
        return [layout.version, layout.pairs, layout.pairs_end, layout.alignment, tensors]
    return [layout.data_start, [[key, value] for key, value in layout.metadata], tensors]


def _pack_chunks(chunks: Chunks, total: int) -> list[object]:
    if isinstance(chunks, ChunkTable) and not is_listed(chunks, total):
        return [0, pack_numbers("I", chunks.lengths()), chunks.digests]
    refs = refs_of(chunks)
    sizes = pack_numbers("Q", (ref.size for ref in refs))
    return [len(chunks), sizes, b"".join(ref.digest for ref in refs)]


def _pack_file(file: FileEntry, total: int) -> list[object]:
    chunks = _pack_chunks(file.chunks, total)
    mode = file.mode if file.mode is not None else _USUAL[file.executable]
    return [file.path, mode, chunks, _pack_layout(file.layout)]


def _encode(manifest: Manifest) -> bytes:
    packer = msgpack.Packer(autoreset=False)
    has_more = bool(manifest.links or manifest.directories or manifest.signature)
    packer.pack_array_header(6 if manifest.signature else 5 if has_more else 3)
    packer.pack(VERSION)
    packer.pack(manifest.name)
    packer.pack_array_header(len(manifest.files))
    for file in manifest.files:
        packer.pack(_pack_file(file, manifest.chunk_count))
    if has_more:
        packer.pack([[link.path, link.target] for link in manifest.links])
        packer.pack([[directory.path, directory.mode] for directory in manifest.directories])
    if manifest.signature:
        packer.pack(manifest.signature)
    data: bytes = packer.bytes()
    return data


def _entries(layout: Layout) -> int:
    """What a layout takes of the budget of `MAX_TENSORS`."""
    return len(layout.tensors) + len(layout.metadata)


def _check(manifest: Manifest) -> None:
    """Check what both sides require; raises :class:`ValueError`."""
    check_component(manifest.name)
    count = len(manifest.files) + len(manifest.links) + len(manifest.directories)
    if count > MAX_FILES:
        raise ValueError(f"{count} files, where {MAX_FILES} are allowed")
    named = [directory.path for directory in manifest.directories]
    files = [file.path for file in manifest.files]
    check_paths([*files, *(link.path for link in manifest.links)], named)
    if len(set(named)) != len(named):
        raise ValueError("a directory is named twice")
    check_links({link.path: link.target for link in manifest.links}, files, named)
    entries = sum(_entries(file.layout) for file in manifest.files if file.layout)
    if entries > MAX_TENSORS:
        raise ValueError(f"{entries} tensors and metadata entries; {MAX_TENSORS} are allowed")
    for file in manifest.files:
        if file.size > MAX_FILE_BYTES:
            raise ValueError(f"the file {file.path!r} is larger than {MAX_FILE_BYTES} bytes")
    total = manifest.chunk_count
    if total > MAX_CHUNKS:
        raise ValueError(f"{total} chunks, where {MAX_CHUNKS} are allowed")
    for file in manifest.files:
        if isinstance(file.chunks, ListedChunks) and not is_listed(file.chunks, total):
            raise ValueError(f"the chunks of {file.path!r} are in lists, where they need not be")


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical bytes of a manifest that this peer has made.

    Raises:
        ContentError: its names cannot be published or it is too large; the message says which.
    """
    try:
        _check(manifest)
    except ValueError as error:
        raise ContentError(f"cannot publish {manifest.name!r}: {error}") from None
    data = _encode(manifest)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ContentError(
            f"cannot publish {manifest.name!r}: its manifest has {len(data)} bytes, where "
            f"{MAX_MANIFEST_BYTES} are allowed; publish its parts one by one"
        )
    return data


def _read_chunks(reader: SchemaReader) -> Chunks:
    reader.array("chunks", 3, 3)
    count = reader.number("count", MAX_CHUNKS)
    lengths, digests = reader.value(bytes, "lengths"), reader.value(bytes, "digests")
    return _refs(count, lengths, digests) if count else table_of(lengths, digests)


def _refs(count: int, sizes: bytes, digests: bytes) -> ListedChunks:
    """What is said of `count` chunks in lists. Nothing is taken for them before it is compared."""
    lists = -(-count // LIST_CHUNKS)
    if len(sizes) != lists * 8 or len(digests) != lists * DIGEST_SIZE:
        raise ValueError(f"{count} chunks are in {lists} lists, and not in those that there are")
    refs = []
    for index, size in enumerate(unpack_numbers("Q", sizes)):
        chunks = min(LIST_CHUNKS, count - index * LIST_CHUNKS)
        if not chunks <= size <= chunks * MAX_CHUNK_BYTES:
            raise ValueError(f"a list of {chunks} chunks cannot have {size} bytes")
        digest = digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]
        refs.append(ListRef(chunks, size, digest))
    return ListedChunks(tuple(refs), {})


def _read_layout(reader: SchemaReader, size: int, budget: int) -> Layout | None:
    fields = reader.array("layout", 5)
    if fields == 0:
        return None
    if fields == 5:
        version = reader.number("version", max(VERSIONS))
        pairs = reader.number("pairs", MAX_PAIRS)
        end = reader.number("pairs_end", PREFIX_BYTES + MAX_PAIR_BYTES)
        alignment = reader.number("alignment", MAX_ALIGNMENT)
        return gguf_layout(version, pairs, end, alignment, size, _read_tensors(reader, budget))
    if fields != 3:
        raise ValueError(f"a layout of {fields} elements")
    data_start = reader.number("data_start", LENGTH_BYTES + MAX_HEADER_BYTES)
    metadata = []
    for _ in range(reader.array("metadata", budget)):
        reader.array("metadata pair", 2, 2)
        metadata.append((reader.value(str, "metadata key"), reader.value(str, "metadata")))
    return layout_from_shapes(data_start, size, metadata, _read_tensors(reader, budget))


def _read_tensors(reader: SchemaReader, budget: int) -> list[tuple[str, str, tuple[int, ...]]]:
    shapes = []
    for _ in range(reader.array("tensors", budget)):
        reader.array("tensor", 3, 3)
        name, dtype = reader.value(str, "tensor name"), reader.value(str, "dtype")
        dimensions = reader.array("shape", MAX_DIMENSIONS)
        shape = tuple(reader.number("dimension", MAX_DIMENSION) for _ in range(dimensions))
        shapes.append((name, dtype, shape))
    return shapes


def _read_manifest(reader: SchemaReader) -> Manifest:
    fields = reader.array("manifest", 6, 3)
    version = reader.value(int, "version")
    if version < VERSION:
        raise ValueError("it was made by an earlier version of Lattica; publish it again")
    if version > VERSION:
        raise ValueError("its version is not known to this program; update it")
    name = reader.value(str, "name")
    files = []
    budget = MAX_TENSORS
    for _ in range(reader.array("files", MAX_FILES)):
        reader.array("file", 4, 4)
        path = reader.value(str, "path")
        mode = reader.number("mode", MAX_MODE)
        chunks = _read_chunks(reader)
        layout = _read_layout(reader, chunks.size, budget)
        if layout is not None:
            budget = max(0, budget - _entries(layout))
        unusual = None if mode in _USUAL.values() else mode
        files.append(FileEntry(path, bool(mode & 0o111), chunks, layout, unusual))
    links, directories = [], []
    if fields > 3:
        for _ in range(reader.array("links", MAX_FILES)):
            reader.array("link", 2, 2)
            links.append(LinkEntry(reader.value(str, "path"), reader.value(str, "target")))
        for _ in range(reader.array("directories", MAX_FILES)):
            reader.array("directory", 2, 2)
            path = reader.value(str, "path")
            directories.append(DirectoryEntry(path, reader.number("mode", MAX_MODE)))
    signature = reader.value(bytes, "signature") if fields > 5 else b""
    if fields == 4 or (fields == 6 and not signature):
        raise ValueError(f"{fields} elements that do not belong together")
    manifest = Manifest(name, tuple(files), tuple(links), tuple(directories))
    _check(manifest)
    if signature:
        manifest = replace(manifest, signature=signature, signer=_signer(manifest, signature))
    return manifest


def _signer(plain: Manifest, signature: bytes) -> PeerId:
    """Who has signed a manifest; raises :class:`RemoteProtocolError` if nobody has."""
    opened = open_envelope(
        signature, SIGNATURE_DOMAIN, SIGNATURE_TYPE, "a manifest", limit=_MAX_SIGNATURE
    )
    if opened.payload != bytes(Cid.of(_encode(plain))):
        raise RemoteProtocolError("the signature of a manifest is of another one")
    return PeerId.from_public_key(opened.signer)


def decode_manifest(data: bytes) -> Manifest:
    """Parse the bytes of a manifest that a peer sent; lists of chunks are not loaded.

    Raises:
        RemoteProtocolError: and nothing else: they are not exactly the canonical encoding of a
            manifest within the limits.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise RemoteProtocolError(f"a manifest of {len(data)} bytes")
    try:
        manifest = _read_manifest(SchemaReader(data))
        if _encode(manifest) != data:
            raise ValueError("it is not encoded canonically, or bytes follow it")
    except (ValueError, msgpack.UnpackException, RemoteProtocolError) as error:
        raise RemoteProtocolError(f"damaged manifest: {error or type(error).__name__}") from None
    return manifest
