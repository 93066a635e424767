"""What the hub's routes answer about a revision, as its clients read it. Pure."""

from __future__ import annotations

from lattica.content.hub.repository import Description, RepositoryFile, RevisionRef

_POINTER_BYTES = 134
"""Of a usual LFS pointer file; clients want some number."""


def etag_of(file: RepositoryFile) -> str:
    """By which clients keep a file, and find it again: its SHA-256."""
    return file.sha256.hex()


def _lfs(file: RepositoryFile) -> dict[str, object]:
    sha256 = etag_of(file)
    # To some clients it is `sha256`, to others `oid`.
    return {"oid": sha256, "sha256": sha256, "size": file.size, "pointerSize": _POINTER_BYTES}


def _object_id(file: RepositoryFile) -> str:
    return file.sha256.hex()[:40]


def info_answer(
    ref: RevisionRef, description: Description, *, with_sizes: bool
) -> dict[str, object]:
    """`/api/models/REPO/revision/REV`."""
    siblings: list[dict[str, object]] = []
    for file in description.files:
        sibling: dict[str, object] = {"rfilename": file.path}
        if with_sizes:
            sibling |= {"size": file.size, "blobId": _object_id(file), "lfs": _lfs(file)}
        siblings.append(sibling)
    name = ref.repository.removeprefix("datasets/").removeprefix("spaces/")
    return {
        "id": name,
        "modelId": name,
        "sha": description.commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
    }


def tree_answer(
    description: Description, path: str, *, recursive: bool
) -> list[dict[str, object]] | None:
    """`/api/models/REPO/tree/REV/PATH`; None: there is no such directory."""
    prefix = f"{path}/" if path else ""
    depth = prefix.count("/")
    directories: dict[str, dict[str, object]] = {}
    files: list[dict[str, object]] = []
    for file in description.files:
        if not file.path.startswith(prefix):
            continue
        above = file.path.split("/")[:-1]
        deepest = len(above) if recursive else min(len(above), depth + 1)
        for length in range(depth + 1, deepest + 1):
            name = "/".join(above[:length])
            if name not in directories:
                entry = {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
                directories[name] = entry
        if recursive or len(above) == depth:
            files.append(
                {
                    "type": "file",
                    "oid": _object_id(file),
                    "size": file.size,
                    "path": file.path,
                    "lfs": _lfs(file),
                }
            )
    if path and not files and not directories:
        return None
    return [*directories.values(), *files]
