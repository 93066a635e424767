"""Secrets of a configuration: given as they are, or where they are to be found."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lattica.nat.base.errors import ConfigError
from lattica.nat.base.keys.private_file import UnprotectedFileError, read_private_file

LIMIT = 4096
"""Bytes of a secret."""
_COMMAND_TIMEOUT = 10.0
"""Seconds that a command may take to say it."""
SECRET_TEXTS = ("metrics.token", "relay.service.secret")
"""The settings that :func:`read_secret` is for, by dotted name."""


def is_reference(text: str) -> bool:
    """Whether it says where a secret is to be found, and is none itself."""
    return text.startswith(("env:", "file:", "command:"))


def read_secret(
    setting: str, text: str, environment: Mapping[str, str] = os.environ, folder: Path | None = None
) -> str:
    """The secret that `text`, the value of `setting`, gives: `env:NAME`, a variable of the
    environment; `file:PATH`, a file that nobody else can read (relative to `folder`);
    `command:PROGRAM ARGUMENT…`, what a program prints, run without a shell; else the text itself.
    White space at its ends is not part of it. Blocks, for a command ten seconds at most.

    Raises:
        ConfigError: there is none, or it cannot be read; the message does not quote it.
    """
    if not is_reference(text):
        return text
    kind, _, rest = text.partition(":")
    try:
        secret = {"env": _of_variable, "file": _of_file, "command": _of_command}[kind](
            rest, environment, folder or Path()
        ).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"{setting}: cannot read {kind}:{rest}: {reason}") from None
    if not secret or not secret.isprintable():
        what = "empty" if not secret else "not one line of text"
        raise ConfigError(f"{setting}: what {kind}:{rest} gives is {what}")
    return secret


def _of_variable(name: str, environment: Mapping[str, str], _folder: Path) -> str:
    if name not in environment:
        raise ValueError("there is no such variable in the environment")
    return environment[name]


def _of_file(path: str, _environment: Mapping[str, str], folder: Path) -> str:
    try:
        return read_private_file(folder / Path(path).expanduser(), LIMIT).decode()
    except UnprotectedFileError as error:
        raise ValueError(f"it {error}") from None


def _of_command(line: str, environment: Mapping[str, str], folder: Path) -> str:
    try:
        done = subprocess.run(
            shlex.split(line),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=dict(environment),
            cwd=folder,
            timeout=_COMMAND_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it has not ended within {_COMMAND_TIMEOUT:g} s") from None
    if done.returncode:
        raise ValueError(f"it ended with status {done.returncode}")
    if len(done.stdout) > LIMIT:
        raise ValueError(f"it prints more than {LIMIT} bytes")
    return done.stdout.decode()
