"""Repositories and their revisions: what they are called, and how one is described. Pure.

A publisher gives a revision three names (:mod:`lattica.content.names`): `hf/REPO@REV`,
`hf/REPO@COMMIT` and `hf/REPO`, the last one for whatever it publishes of it at present. Each leads
to the manifest, and to a description, which adds what a hub's clients want to know before they
fetch a file, and a manifest does not say: the SHA-256 of each whole file. The description is
published as content of its own, one file of canonical msgpack::

    [1, content id of the manifest, [[path, size, sha256], …]]

with the files in the manifest's order. The commit is the beginning of the manifest's hash, so that
equal files under an equal name have the same one everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgpack

from lattica.content.errors import TicketError
from lattica.content.manifest.cid import DIGEST_SIZE, Cid
from lattica.content.manifest.manifest import MAX_FILE_BYTES, MAX_FILES
from lattica.content.manifest.paths import check_paths
from lattica.content.manifest.schema_reader import SchemaReader
from lattica.nat.base.errors import RemoteProtocolError

VERSION = 1
DEFAULT_REVISION = "main"
MAX_DESCRIPTION = 64 * 1024 * 1024
MAX_REVISION = 80
"""Characters."""
_COMMIT_CHARACTERS = 40
_PREFIX = "hf/"
_KINDS = ("datasets/", "spaces/")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")


def commit_of(cid: Cid) -> str:
    """The commit that a publication counts as: 40 characters of hexadecimal."""
    return cid.digest.hex()[:_COMMIT_CHARACTERS]


@dataclass(frozen=True, slots=True)
class RevisionRef:
    """A revision of a repository, as people write it: `org/model@v1`."""

    repository: str
    """As the hub's clients name it; those of data sets begin with `datasets/`."""
    revision: str = DEFAULT_REVISION

    def __post_init__(self) -> None:
        """Raises :class:`TicketError`: no hub has such names."""
        name = self.repository
        for kind in _KINDS:
            name = name.removeprefix(kind)
        parts = name.split("/")
        if len(parts) > 2 or not all(_PART.fullmatch(part) for part in parts):
            raise TicketError(
                f"{self.repository!r:.120} is no repository's name; it is NAME or ORG/NAME, of "
                "letters, digits, '.', '_' and '-'"
            )
        if len(self.revision) > MAX_REVISION or not _REVISION.fullmatch(self.revision):
            raise TicketError(
                f"{self.revision!r:.120} is no revision; it has up to {MAX_REVISION} letters, "
                "digits, '.', '_', '-', '+' and '/'"
            )

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}"

    @classmethod
    def parse(cls, text: str) -> RevisionRef:
        """Parse `NAME`, or `NAME@REV`. Raises :class:`TicketError`."""
        repository, at, revision = text.strip().partition("@")
        return cls(repository, revision if at else DEFAULT_REVISION)

    @property
    def title(self) -> str:
        """The repository's name without its owner."""
        return self.repository.rpartition("/")[2]

    @property
    def name(self) -> str:
        """Its name in the mesh."""
        return f"{_PREFIX}{self}"

    @property
    def repository_name(self) -> str:
        """The name in the mesh of what its publisher has of the repository at present."""
        return f"{_PREFIX}{self.repository}"


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file of a revision."""

    path: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Description:
    """What a revision consists of."""

    cid: Cid
    """Of the manifest."""
    files: tuple[RepositoryFile, ...]

    @property
    def commit(self) -> str:
        """40 characters of hexadecimal."""
        return commit_of(self.cid)


def encode_description(description: Description) -> bytes:
    """The canonical bytes of a description."""
    files = [[file.path, file.size, file.sha256] for file in description.files]
    data: bytes = msgpack.packb([VERSION, bytes(description.cid), files])
    return data


def decode_description(data: bytes) -> Description:
    """Parse a description that a peer has published.

    Raises:
        RemoteProtocolError: and nothing else: it is none, or not within the limits of a manifest.
    """
    if len(data) > MAX_DESCRIPTION:
        raise RemoteProtocolError(f"a description of {len(data)} bytes")
    try:
        reader = SchemaReader(data)
        reader.array("description", 3, 3)
        if reader.value(int, "version") != VERSION:
            raise ValueError("its version is not known to this program; update it")
        cid = Cid.from_bytes(reader.value(bytes, "content id"))
        count = reader.array("files", MAX_FILES)
        description = Description(cid, tuple(_read_file(reader) for _ in range(count)))
        check_paths(file.path for file in description.files)
        if encode_description(description) != data:
            raise ValueError("it is not encoded canonically, or bytes follow it")
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"damaged description: {error or type(error).__name__}") from None
    return description


def _read_file(reader: SchemaReader) -> RepositoryFile:
    reader.array("file", 3, 3)
    path = reader.value(str, "path")
    size = reader.number("size", MAX_FILE_BYTES)
    sha256 = reader.value(bytes, "hash")
    if len(sha256) != DIGEST_SIZE:
        raise ValueError(f"a hash of {len(sha256)} bytes")
    return RepositoryFile(path, size, sha256)
