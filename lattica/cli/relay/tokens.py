"""`lattica relay token`: who may use a relay with `access = "token"`."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.relay.operator import limits_text, opened, parse_bytes, parse_seconds, time_text
from lattica.cli.shared.common import wrong_arguments
from lattica.cli.shared.terminal import say, say_json
from lattica.nat.base.errors import ConfigError, LatticaError

if TYPE_CHECKING:
    from lattica.daemon.access.database import TokenRow

JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object, one a line.")]


def register(group: typer.Typer) -> None:
    """Add the commands to `group`."""
    token = typer.Typer(
        help="Give peers tokens for this relay, and take them back.", no_args_is_help=True
    )
    token.command("new")(new_command)
    token.command("list")(list_command)
    token.command("revoke")(revoke_command)
    group.add_typer(token, name="token")


def new_command(
    ctx: typer.Context,
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Its ID, as `lattica id` shows it.")],
    expires: Annotated[
        int | None,
        typer.Option(
            "--expires", metavar="TIME", parser=parse_seconds, help="As 12h, 30d, 2w; else never."
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate", metavar="BYTES", parser=parse_bytes, help="A second, all its circuits; as 5M."
        ),
    ] = None,
    month: Annotated[
        int | None,
        typer.Option(
            "--month", metavar="BYTES", parser=parse_bytes, help="In a calendar month; as 100G."
        ),
    ] = None,
    circuits: Annotated[
        int | None, typer.Option("--circuits", metavar="COUNT", min=1, help="At once.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="Whose it is, for you.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Give a peer a token, which is of use to nobody but who has that peer's key.

    The relay may run meanwhile. The peer sets what is printed as `nat.relay.tokens`; programs that
    cannot show it are served all the same, by their key.
    """
    from lattica.daemon.access.database import TokenRow
    from lattica.nat.base.keys.identity import Identity, parse_peer_id
    from lattica.nat.traversal.relay.token import Token, new_id, seal_token, token_text

    with wrong_arguments():
        peer_id = parse_peer_id(peer)
    with opened(ctx) as (config, database):
        assert config.identity_path is not None  # `start` fills it in
        if not config.identity_path.exists():
            # Of another data directory than the relay's, a token is of no use.
            say(f"made a new key in {config.identity_path}", err=True)
        identity = Identity.load_or_create(config.identity_path)
        now = int(time.time())
        token = Token(
            identity.peer_id,
            peer_id,
            new_id(),
            now + expires if expires else 0,
            rate or 0,
            month or 0,
            circuits or 0,
        )
        text = token_text(seal_token(identity, token))
        row = TokenRow(
            token.id, str(peer_id), note, now, token.not_after, token.rate, token.month,
            token.circuits,
        )  # fmt: skip
        database.add_token(row)
    if as_json:
        say_json({**dataclasses.asdict(row), "relay": str(identity.peer_id), "token": text})
        return
    say(text)
    until = time_text(token.not_after) if token.not_after else "it is revoked"
    say(f"{token.id}: {limits_text(row.rate, row.month, row.circuits)}, until {until}", err=True)


def list_command(
    ctx: typer.Context,
    note: Annotated[
        str | None, typer.Option("--note", help="Only those with this text in their note.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the tokens that were given, and whether they hold."""
    with opened(ctx) as (_, database):
        rows = [row for row in database.tokens() if note is None or note in row.note]
    for row in rows:
        state = _state(row)
        if as_json:
            say_json({**dataclasses.asdict(row), "state": state})
        else:
            limits = limits_text(row.rate, row.month, row.circuits)
            say(f"{row.id}  {state}  {row.peer}  {limits}  {row.note}".rstrip())


def _state(row: TokenRow) -> str:
    if row.revoked:
        return f"revoked {time_text(row.revoked)}"
    if not row.not_after:
        return "holds"
    word = "until" if time.time() < row.not_after else "ran out"
    return f"{word} {time_text(row.not_after)}"


def revoke_command(
    ctx: typer.Context,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="As `token list` shows them.")
    ] = None,
    note: Annotated[
        str | None, typer.Option("--note", help="Those with exactly this note.")
    ] = None,
) -> None:
    """Take tokens back. A relay that runs lets go of the peers within seconds."""
    if not ids and not note:
        with wrong_arguments():
            raise ConfigError("say which: an ID, or --note")
    with opened(ctx) as (_, database):
        rows = database.tokens()
        unknown = {*(ids or ())} - {row.id for row in rows}
        if unknown:
            raise LatticaError(f"there is no token {', '.join(sorted(unknown))}")
        chosen = [row.id for row in rows if row.id in (ids or ()) or (note and row.note == note)]
        count = database.revoke(chosen, int(time.time()))
    say(f"revoked: {count}")
