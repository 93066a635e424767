"""Whether what a fetch writes can have its names here, and takes tensors away that lie there.

Looked at before anything is made or fetched.
"""

from __future__ import annotations

import os
from pathlib import Path

from lattica.content.download.plan import Plan
from lattica.content.errors import ContentError, StorageError
from lattica.content.manifest.chunking import cut_file

_SHOWN_NAMES = 3


def check_names(plan: Plan, out_dir: Path) -> None:
    """Whether the names can be told to the system. Pure.

    Raises:
        StorageError: the locale's encoding lacks a character of a name.
    """
    for path in (str(out_dir), *(output.path for output in plan.outputs)):
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise StorageError(
                f"this locale cannot name {path!r}; set PYTHONUTF8=1, or a UTF-8 locale"
            ) from None


def check_tensors_stay(plan: Plan, out_dir: Path) -> None:
    """See whether files with other tensors lie where those of a selection belong; blocking.

    Raises:
        ContentError: one does; names what would be lost.
    """
    if plan.tensors is None:
        return
    for index, output in enumerate(plan.outputs):
        path = out_dir / output.path
        try:
            layout = cut_file(path, flags=os.O_RDONLY | os.O_NOFOLLOW, warn=False).layout
        except OSError:
            continue  # there is none, or writing will say what the matter is
        if layout is None:
            continue
        selected = plan.tensor_names(index)
        lost = [tensor.name for tensor in layout.tensors if tensor.name not in selected]
        if lost:
            count = f"{len(lost)} tensor{'' if len(lost) == 1 else 's'}"
            some = ", ".join(lost[:_SHOWN_NAMES]) + (", …" if len(lost) > _SHOWN_NAMES else "")
            raise ContentError(
                f"{path} has {count} that are not selected and would be lost ({some}); choose "
                "another directory with -o, or give --replace"
            )
