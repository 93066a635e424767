"""Whether the original `lattica` is installed beside this package: both own the folder `lattica/`,
and whichever is removed takes files of the other with it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import Final

ADVICE: Final = (
    "Run `pip uninstall lattica`, then `pip install --force-reinstall --no-deps lattica-stack`."
)


def has_original() -> bool:
    """Whether the distribution `lattica`, the original, is installed here."""
    try:
        distribution("lattica")
    except PackageNotFoundError:
        return False
    return True
