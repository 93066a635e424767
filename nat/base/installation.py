"""Whether what is imported as `lattica` is this project.

PyPI has another project of that name, that of the paper's authors, which is imported as `lattica`
too: installed into one environment, each overwrites the other's `lattica/__init__.py` without a
word, and removing one removes it. Files of both then run together. Imports nothing heavy: every
import of this project asks.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress

DISTRIBUTION = "lattica-stack"
OTHER = "lattica"
MARK = "_DISTRIBUTION"
"""What only our `lattica/__init__.py` has."""
_REPAIR = (
    f"pip uninstall -y {OTHER} && pip install --force-reinstall --no-deps {DISTRIBUTION}; who "
    "needs both keeps them in environments of their own"
)


def check_package() -> None:
    """See that `lattica` is ours; called by whatever of ours is imported below it.

    Raises:
        ImportError: it is the other project's, or what that has left; says what to do.
    """
    package = sys.modules.get("lattica")
    if package is None or getattr(package, MARK, None) == DISTRIBUTION:
        return
    place = next(iter(getattr(package, "__path__", ())), "?")
    found = _other_in(os.path.dirname(place))
    if found is not None:
        what = f"has overwritten files of {DISTRIBUTION} in {place}, which cannot work"
        problem = f"{found}, another project that is imported by the same name, {what}"
    elif getattr(package, "__file__", None) is None:
        problem = (
            f"{place} has lost its __init__.py, as happens when the other project {OTHER}, which "
            f"had overwritten it, is uninstalled"
        )
    else:
        problem = (
            f"{package.__file__} is not of {DISTRIBUTION}, but of another project that is imported "
            "by the same name"
        )
    raise ImportError(f"{problem}. Run: {_REPAIR}", name="lattica")


def warn_of_other(place: str) -> None:
    """Warn where the other project is installed beside our `lattica/`, which is at `place`."""
    found = _other_in(os.path.dirname(place))
    if found is not None:
        warnings.warn(
            f"{found}, another project that is imported by the same name, is installed in the same "
            f"place as {DISTRIBUTION}, and its files are mixed with these; to uninstall it would "
            f"break them. Run: {_REPAIR}",
            RuntimeWarning,
            stacklevel=3,
        )


def _other_in(folder: str) -> str | None:
    """The other project with its version, if its metadata is in a folder of packages."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name, dot, kind = entry.name.rpartition(".")
            if dot and kind in ("dist-info", "egg-info") and name.startswith(f"{OTHER}-"):
                return f"the package {OTHER} {name.removeprefix(f'{OTHER}-')}"
    return None
