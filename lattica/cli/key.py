"""`lattica key`: the key by which others know this peer."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import start
from lattica.cli.shared.options import named_path
from lattica.cli.shared.terminal import say, say_json
from lattica.nat.base.errors import IdentityError

if TYPE_CHECKING:
    from lattica.nat.base.keys.identity import Identity

JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the group of commands to `app`."""
    group = typer.Typer(help="The key by which others know this peer.", no_args_is_help=True)
    group.command("new")(new_command)
    group.command("show")(show_command)
    group.command("rotate")(rotate_command)
    app.add_typer(group, name="key")


def new_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", parser=named_path, help="Where to write it; never overwritten."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Make a key in a file that only you can read, and show the ID of the peer that has it.

    So allow-lists and tokens can be written before the peer runs: name the file there as
    `identity_path`, or by `--identity`.
    """
    from lattica.nat.base.keys.identity import Identity

    identity = Identity.generate()
    identity.save(file)
    _show(identity, file, as_json)


def show_command(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show the ID of this peer's key, and its file; nothing is made."""
    path = _path(ctx)
    _show(_load(path), path, as_json)


def rotate_command(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Replace this peer's key by a new one, and keep the old beside it. Not while it runs.

    The peer has another ID then: others must be told, in allow-lists and in addresses. A relay goes
    on to serve the peers it has given tokens to, as these are in its file.
    """
    import os

    from lattica.nat.base.keys.identity import Identity
    from lattica.nat.base.keys.key_lock import KeyLock

    path = _path(ctx)
    old = _load(path)
    with KeyLock(path, old):
        kept = path.with_name(f"{path.name}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.old")
        fresh = path.with_name(f"{path.name}.new")
        new = Identity.generate()
        try:
            fresh.unlink(missing_ok=True)  # of a rotation that was cut off
            new.save(fresh)
            os.link(path, kept)
            # There is a key at every moment, the old one or the new one.
            os.replace(fresh, path)
        except OSError as error:
            raise IdentityError(f"cannot replace {path}: {error.strerror}") from None
    if as_json:
        say_json({"peer_id": str(new.peer_id), "key_file": str(path), "old_peer_id":
                  str(old.peer_id), "old_key_file": str(kept)})  # fmt: skip
        return
    say(str(new.peer_id))
    say(f"in place of {old.peer_id}, whose key is kept in {kept}", err=True)


def _path(ctx: typer.Context) -> Path:
    config = start(ctx)
    assert config.identity_path is not None  # `start` fills it in
    return config.identity_path.absolute()


def _load(path: Path) -> Identity:
    from lattica.nat.base.keys.identity import Identity

    if not os.path.exists(path):
        raise IdentityError(f"there is no key in {path} yet: `lattica id` makes it")
    return Identity.load(path)


def _show(identity: Identity, path: Path, as_json: bool) -> None:
    if as_json:
        say_json({"peer_id": str(identity.peer_id), "key_file": str(path.absolute())})
    else:
        say(str(identity.peer_id))
