"""How a fetch behaves, and what comes of it: plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from lattica.content.manifest.cid import Cid
from lattica.content.manifest.manifest import Manifest
from lattica.nat.base.checks import require, require_seconds, require_texts, require_types
from lattica.nat.base.keys.identity import PeerId


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How a fetch behaves. Bytes and seconds."""

    window: int = 32 * 1024 * 1024
    """Bytes asked for and not received. Costs no memory here; keeps long links busy."""
    verify_threads: int = 2
    queued_spans: int = 4
    """Received requests (of at most 1 MiB) that may wait for a thread."""
    max_providers: int = 16
    """Peers that are asked at the same time."""
    base: tuple[Path, ...] = ()
    """Files and directories that may have some of it, an older version for instance: whatever chunk
    lies in them is copied instead of being fetched, found by its hash, whatever its file is called.
    Links to files in them are followed."""
    share: bool = True
    """Serve to others, while it is fetched, what has come of it, and be told of others who do."""
    share_for: float = 0.0
    """Seconds for which it is served on when all is there, before the call returns."""
    lingers: bool = True
    """Serve on in any case as long as others who fetch the same ask for it, or they would have to
    get from the source again what only this peer had of it: at most half as long as it took, and
    no longer than 10 s. Nobody fetches the same: not at all."""
    rate: float = math.inf
    """Bytes a second that are received at most."""
    stalled_after: float = 60.0
    """Time without a byte after which the connection counts as lost."""
    least_rate: int = 1024
    """Bytes a second that a provider has to send in that time; a slower one counts as lost."""
    give_up_after: float = 300.0
    """Time without a verified chunk after which a lost connection becomes an error, or that nobody
    has what is missing."""
    first_delay: float = 0.5
    """Pause before a lost connection is made anew; doubles up to 15 s while nothing comes."""
    delete_former: bool = False
    """When all is there, remove the files in the directory that a former fetch into it has written,
    nobody has changed since, and that are not part of this; before, those of them that lie where a
    file of this, or its directory, belongs. For a whole published directory only."""
    delete_matching: tuple[str, ...] = ()
    """Remove others that are not part of this too: those whose name, or path within the directory,
    matches one of these globs (as in `fnmatch`, with case). Not in directories below that other
    fetches were into."""
    signed_by: PeerId | None = None
    """Who has to have signed the manifest; nothing is fetched of another one."""
    replace_tensors: bool = False
    """A file of a selection may replace one that has tensors which are not selected, for instance
    the whole file or another selection of it. Without it that is an error before anything is
    fetched."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("window", "verify_threads", "queued_spans", "max_providers"):
            value = getattr(self, name)
            require(isinstance(value, int) and value > 0, name, "a positive number", value)
        for name in ("stalled_after", "give_up_after", "first_delay"):
            require_seconds(name, getattr(self, name))
        base: object = self.base
        is_paths = isinstance(base, tuple) and all(isinstance(path, Path) for path in base)
        require(is_paths, "base", "a tuple of paths", base)
        signer: object = self.signed_by
        ok = signer is None or isinstance(signer, PeerId)
        require(ok, "signed_by", "a PeerId, or None", signer)
        require(self.share_for >= 0, "share_for", "seconds, or 0", self.share_for)
        require(self.rate > 0, "rate", "a positive number of bytes a second", self.rate)
        require_texts("delete_matching", self.delete_matching)
        for pattern in self.delete_matching:
            inside = pattern and not pattern.startswith("/") and ".." not in pattern.split("/")
            what = "globs of names or of paths within the directory, without '..'"
            require(bool(inside), "delete_matching", what, pattern)


@dataclass(frozen=True, slots=True)
class FetchSource:
    """A peer that bytes came from."""

    peer_id: PeerId
    bytes_fetched: int
    """That were verified and used."""


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A finished fetch."""

    cid: Cid
    name: str
    paths: tuple[Path, ...]
    """All files, in the manifest's order."""
    bytes_total: int
    """Bytes of these files."""
    bytes_fetched: int
    """Bytes that came over the network in this run."""
    seconds: float
    """From the start to the last file synced to disk."""
    sources: tuple[FetchSource, ...] = ()
    """The peers that bytes came from in this run, those that sent most first."""
    bytes_shared: int = 0
    """Bytes of it that were sent to others meanwhile."""
    other_files: tuple[Path, ...] = ()
    """Files in the directory that are not part of this, of former fetches or with an ending that
    files of this have; and directories of unfinished files of fetches of something else that were
    broken off, which count as files of former fetches. Empty unless a whole directory was published
    and fetched."""
    former_files: tuple[Path, ...] = ()
    """Those of them that `delete_former` would remove."""
    removed_files: tuple[Path, ...] = ()
    """Those that were removed."""
    directory_cut: bool = False
    """There are more files in the directory than are looked at, so that these are not all."""
    manifest: Manifest | None = field(default=None, repr=False, compare=False)
    """What was fetched, or selected from; None if the daemon of this machine has fetched it."""
