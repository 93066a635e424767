"""Files that commands write for this user alone."""

from __future__ import annotations

from pathlib import Path

from lattica.nat.base.errors import ConfigError


def write_new(file: Path, data: bytes) -> None:
    """Write a file that only this user can read, in a directory that is there; never overwrites.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    from lattica.nat.base.keys.private_file import write_private_file

    if not file.parent.is_dir():
        raise ConfigError(f"cannot write {file}: {file.parent} is no directory; make it first")
    try:
        write_private_file(file, data)
    except FileExistsError:
        raise ConfigError(f"{file} exists already; it is not overwritten") from None
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from None
