"""`lattica crdt prove` and `lattica crdt verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lattica.cli.crdt.place_kind import PlaceKind
from lattica.cli.shared.common import start, wrong_arguments
from lattica.cli.shared.options import named_path
from lattica.cli.shared.terminal import say, say_json
from lattica.nat.base.printable import utc_text

if TYPE_CHECKING:
    from lattica.crdt.base.canonical import Plain
    from lattica.crdt.proofs.proof import Proved
    from lattica.crdt.proofs.query import Query


def register(group: typer.Typer) -> None:
    """Add this module's commands to `group`."""
    group.command("prove")(prove_command)
    group.command("verify")(verify_command)


def prove_command(
    ctx: typer.Context,
    document: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", parser=named_path, help="The document's file; not while a node has it."
        ),
    ],
    kind: Annotated[PlaceKind, typer.Argument(metavar="KIND", help="Of what.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which.")],
    item: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Only this element of a set, or the claims to this."),
    ] = None,
    prefix: Annotated[
        bool, typer.Option("--prefix", help="All registers, texts or lists with such names.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", parser=named_path, help="Write it here, as bytes."
        ),
    ] = None,
    unsigned: Annotated[
        bool,
        typer.Option("--unsigned", help="Without this peer's word that it is the state."),
    ] = False,
) -> None:
    """Prove what a document says at a place, or that it says nothing there.

    KIND is register, counter, set, claim, text or list. The proof goes to standard output, a line
    of JSON. Whoever has it and the document's ID verifies it, without a network:

        lattica crdt prove cluster.sqlite3 register model/latest >proof.json

        lattica crdt verify proof.json --document ID --signer 12D3KooW…
    """
    from lattica.crdt.document import Document
    from lattica.crdt.log.disk.schema import read_genesis
    from lattica.crdt.proofs.json_form import proof_to_json
    from lattica.nat.base.keys.identity import Identity

    with wrong_arguments():
        query = _query(kind, name, item, prefix)
    config = start(ctx, quiet=True)
    genesis = read_genesis(document)
    assert config.identity_path is not None  # `start` fills it in
    is_anybody = unsigned and not genesis.is_sealed
    identity = Identity.generate() if is_anybody else Identity.load_or_create(config.identity_path)
    with Document(document, genesis, identity) as opened:
        proof = opened.proof(query, is_signed=not unsigned)
        root = opened.root
    if out is None:
        say(proof_to_json(proof, genesis.doc_id))
    else:
        _write(out, proof)
    say(f"document {genesis.doc_id.hex()}, state {root.hex()}", err=True)


def verify_command(
    proof: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The proof, as JSON or bytes; - is standard input."),
    ],
    document: Annotated[
        str, typer.Option(metavar="ID", help="Of which document it has to be: 64 hex digits.")
    ],
    root: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="The state of which it has to be, if you know it."),
    ] = None,
    signer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER_ID", help="Who has to say that it is the state; may be repeated."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Verify a proof, and print what it shows. Nothing is asked of any network.

    It ends with 1 if the proof does not show it. Name those whose word you take with --signer, or
    give the state's root with --root: otherwise the proof shows what its signer says, whoever that
    is. It cannot show that nothing newer was written.
    """
    from lattica.crdt.proofs.json_form import proof_from_json
    from lattica.crdt.proofs.proof import MAX_PROOF, verify_proof
    from lattica.nat.base.errors import RemoteProtocolError

    with wrong_arguments():
        doc_id, expected = _hash(document, "a document's ID"), None
        if root is not None:
            expected = _hash(root, "a root")
    data = _read(proof, 3 * MAX_PROOF)
    if data[:1].isspace() or data[:1] == b"{":
        try:
            data, _ = proof_from_json(data.decode())
        except UnicodeDecodeError:
            raise RemoteProtocolError("not a proof in JSON: no UTF-8") from None
    proved = verify_proof(data, doc_id, root=expected)
    by = _peer(proved.signer)
    if signer and by not in signer:
        raise RemoteProtocolError(f"a proof of what {by or 'nobody'} says is the state")
    if as_json:
        say_json(_object(proved))
    else:
        _say(proved)


def _query(kind: PlaceKind, name: str, item: str | None, prefix: bool) -> Query:
    from lattica.crdt.entries.header import Kind
    from lattica.crdt.proofs.query import Query, Scope
    from lattica.nat.base.errors import ConfigError

    if item is not None and prefix:
        raise ConfigError("give only one of --item and --prefix")
    value: Plain = None
    scope = Scope.PREFIX if prefix else Scope.NAME
    if item is not None:
        scope = Scope.ITEM
        try:
            value = json.loads(item)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--item is no JSON ({error}); a text needs quotes in it") from None
    return Query(Kind[kind.name], name, scope, value)


def _hash(text: str, what: str) -> bytes:
    from lattica.nat.base.errors import ConfigError

    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != 32:
        raise ConfigError(f"{what} has 64 hexadecimal digits, not {text!r}")
    return data


def _read(path: Path, limit: int) -> bytes:
    from lattica.nat.base.errors import ConfigError

    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(limit + 1)
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    from lattica.nat.base.errors import ConfigError

    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _peer(identity: bytes | None) -> str | None:
    from lattica.nat.base.keys.peer_id import PeerId
    from lattica.nat.base.keys.public_keys import ed25519_public_key

    if identity is None:
        return None
    return str(PeerId.from_public_key(ed25519_public_key(identity)))


def _object(proved: Proved) -> dict[str, Any]:
    from lattica.crdt.log.clock import milliseconds_of

    query, statement = proved.query, proved.statement
    return {
        "document": proved.doc_id.hex(),
        "root": proved.root.hex(),
        "kind": query.kind.name.lower(),
        "name": query.name,
        "scope": query.scope.name.lower(),
        "item": readable(query.item),
        "value": readable(proved.value),
        "contested": proved.is_contested,
        "authors": [
            {
                "peer": _peer(each.identity),
                "session": each.session.hex(),
                "entry": each.entry_id.hex(),
                "milliseconds": milliseconds_of(each.hlc),
            }
            for each in proved.authors.values()
        ],
        "signer": _peer(proved.signer),
        "signed_milliseconds": statement.time if statement else None,
        "entries": statement.entries if statement else None,
        "heads": statement.heads.hex() if statement else None,
    }


def _say(proved: Proved) -> None:
    query, statement = proved.query, proved.statement
    of = json.dumps(query.name + ("…" if query.scope.name == "PREFIX" else ""))
    if query.scope.name == "ITEM":
        of += f" {json.dumps(readable(query.item))}"
    say(f"{query.kind.name.lower()} {of}: {json.dumps(readable(proved.value))}")
    if proved.is_contested:
        say("contested: others wrote something else without knowing of it")
    for author in proved.authors.values():
        say(f"written by {_peer(author.identity)}, entry {author.entry_id.hex()}")
    if statement is not None:
        say(f"state {proved.root.hex()} of {statement.entries} entries")
        say(f"signed by {_peer(proved.signer)} at {clock_time(statement.time)} by its clock")
    else:
        say(f"state {proved.root.hex()}, which nobody has signed")


def clock_time(milliseconds: int) -> str:
    """A time of somebody's clock, in UTC; as a number where there is no such date."""
    return utc_text(milliseconds / 1000, f"{milliseconds} ms")


def readable(value: Plain) -> Any:
    """As JSON has it: bytes as `{"hex": …}`."""
    match value:
        case bytes():
            return {"hex": value.hex()}
        case dict():
            return {key: readable(each) for key, each in value.items()}
        case list() | tuple():
            return [readable(each) for each in value]
        case _:
            return value
