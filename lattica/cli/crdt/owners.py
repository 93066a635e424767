"""`lattica crdt` and `owners`, `appoint`, `sign-appointment`, `accept`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.crdt.by_node import only_alone
from lattica.cli.crdt.opening import (
    WAIT,
    DocumentArgument,
    JsonOption,
    WaitOption,
    offline,
    online,
    open_document,
    read_file,
    with_document,
    write_file,
)
from lattica.cli.shared.common import run
from lattica.cli.shared.options import ConnectOption, RelayOption, named_path
from lattica.cli.shared.terminal import say, say_json

if TYPE_CHECKING:
    from lattica.crdt.document import Owner
    from lattica.crdt.store.shared_document import SharedDocument
    from lattica.nat.base.keys.identity import Identity

KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        parser=named_path,
        help="The recovery's key that signs; without it this peer does, as another owner.",
    ),
]
OutOption = Annotated[
    Path,
    typer.Option("-o", "--out", metavar="FILE", parser=named_path, help="Write the result here."),
]
AppointmentArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        parser=named_path,
        help="What `appoint` or `sign-appointment` has written.",
    ),
]


def register(group: typer.Typer) -> None:
    """Add this module's commands to `group`."""
    group.command("owners")(owners_command)
    group.command("appoint")(appoint_command)
    group.command("sign-appointment")(sign_command)
    group.command("accept")(accept_command)


def owner_json(owner: Owner) -> dict[str, object]:
    """What is said of an owner."""
    return {
        "peer": str(owner.peer),
        "frozen": owner.is_frozen,
        "instead_of": None if owner.instead_of is None else str(owner.instead_of),
    }


def owners_command(
    ctx: typer.Context, document: DocumentArgument, as_json: JsonOption = False
) -> None:
    """List who owns a document, as far as is known here.

    One who is frozen has contradicted itself, as a peer does of which a backup or a virtual machine
    was restored: it neither gives rights nor takes any back, until `appoint` has put an owner in
    its place, which may be itself.
    """

    def show(opened: SharedDocument) -> None:
        for each in opened.owners():
            if as_json:
                say_json(owner_json(each))
            else:
                instead = f", in the place of {each.instead_of}" if each.instead_of else ""
                say(f"{each.peer}{instead}{', frozen' if each.is_frozen else ''}")

    with_document(only_alone(ctx, offline(ctx)), document, show)


def appoint_command(
    ctx: typer.Context,
    document: DocumentArgument,
    peer: Annotated[
        str, typer.Argument(metavar="PEER", help="The new owner's ID; the same may go on.")
    ],
    out: OutOption,
    instead_of: Annotated[
        str | None,
        typer.Option(
            "--instead-of", metavar="PEER", help="The owner who is replaced, if several are frozen."
        ),
    ] = None,
    key: KeyOption = None,
    wait: WaitOption = WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Appoint an owner in the place of one who has contradicted itself.

    It takes as many signatures as the document was made with (`create --recovery`): the first is
    this one, others are added by `sign-appointment`, and then the new owner calls `accept`. What
    the former owner has written counts as far as it is here, so be in step with peers first
    (--connect); nothing counts that it writes later.
    """

    def appoint(opened: SharedDocument) -> None:
        made = opened.appoint(peer, instead_of=instead_of, by=_key(key))
        _hand_out(opened, made, out, as_json=as_json)

    config = only_alone(ctx, online(ctx, None, connect, relay))
    with_document(config, document, appoint, wait=wait, before=True)


def sign_command(
    ctx: typer.Context,
    document: DocumentArgument,
    appointment: AppointmentArgument,
    out: OutOption,
    key: KeyOption = None,
    wait: WaitOption = WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign somebody else's appointment of an owner, too."""
    given = read_file(appointment)

    def sign(opened: SharedDocument) -> None:
        made = opened.sign_appointment(given, by=_key(key))
        _hand_out(opened, made, out, as_json=as_json)

    config = only_alone(ctx, online(ctx, None, connect, relay))
    with_document(config, document, sign, wait=wait, before=True)


def accept_command(
    ctx: typer.Context,
    document: DocumentArgument,
    appointment: AppointmentArgument,
    wait: WaitOption = WAIT,
    connect: ConnectOption = None,
    relay: RelayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Own a document by an appointment of this peer that enough have signed.

    Peers hear of it while this peer has the document open (`open`, `watch`).
    """
    config = only_alone(ctx, online(ctx, None, connect, relay))

    async def work() -> None:
        import trio

        from lattica.errors import AccessDeniedError
        from lattica.node import Node

        async with Node(config) as node:
            opened = await open_document(node, document, appointment, wait)
            with opened.changes() as changes, trio.move_on_after(wait if config.bootstrap else 0):
                while node.peer_id not in [each.peer for each in opened.owners()]:
                    await anext(changes)
            own = [each for each in opened.owners() if each.peer == node.peer_id]
            if not own:
                raise AccessDeniedError(
                    "this peer does not own the document yet: too few have signed its "
                    "appointment, or nothing is known here of the contradiction that it is "
                    "because of (--connect)"
                )
            say_json(owner_json(own[0])) if as_json else say(f"{own[0].peer} owns {opened.id}")

    run(work)


def _hand_out(opened: SharedDocument, appointment: bytes, out: Path, *, as_json: bool) -> None:
    write_file(out, appointment)
    said = opened.read_appointment(appointment)
    if as_json:
        say_json(
            {
                "former": str(said.former),
                "successor": str(said.successor),
                "signers": [str(each) for each in said.signers],
                "enough": said.is_enough,
            }
        )
    else:
        signed = "enough have signed it" if said.is_enough else "others have to sign it, too"
        say(f"{said.successor} in the place of {said.former}: {signed}")


def _key(path: Path | None) -> Identity | None:
    from lattica.nat.base.keys.identity import Identity

    return None if path is None else Identity.load(path)
