"""`lattica status`, `peers`, `paths` and `top`: how the node that runs here is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lattica.cli.shared.common import start
from lattica.cli.shared.daemon import by_daemon, required_node
from lattica.cli.shared.terminal import console, say, say_json
from lattica.nat.base.printable import printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from lattica.daemon.api.client import NodeClient

JsonOption = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]
_ID = 16
"""Characters of a peer ID's end, which tell it from others."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("status")(status_command)
    app.command("peers")(peers_command)
    app.command("paths")(paths_command)
    app.command("top")(top_command)


def status_command(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show how the `lattica node` that runs here is, on one page."""
    client = _client(ctx)
    with by_daemon(client):
        status = _status(client)
    if as_json:
        say_json(status, indent=2)
        return
    for line in status_lines(status):
        say(line)


def peers_command(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the peers that the node is connected to, and how each is reached.

    With --json: one object a line.
    """
    client = _client(ctx)
    with by_daemon(client):
        peers = _status(client)["peers"]
    if as_json:
        for peer in peers:
            say_json(peer)
    elif not peers:
        say("no peer is connected", err=True)
    else:
        for each in peers:
            say(peer_line(each))


def paths_command(
    ctx: typer.Context,
    peer: Annotated[
        str | None, typer.Argument(metavar="[PEER]", help="Only this one, by its ID or its end.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say for each peer which connections there are, and why there is no better path.

    With --json: one object a line. Ends with 1 if PEER is not connected.
    """
    client = _client(ctx)
    with by_daemon(client):
        peers = _status(client)["peers"]
    if peer is not None:
        peers = [each for each in peers if each["peer_id"].endswith(peer)]
        if not peers:
            say(f"lattica: {peer} is not connected", err=True)
            raise typer.Exit(1)
    for each in peers:
        if as_json:
            keys = ("peer_id", "path", "addr", "relay", "connections", "strategies")
            say_json({key: each[key] for key in (*keys, "next_attempt_seconds")})
        else:
            for line in path_lines(each):
                say(line)


def top_command(
    ctx: typer.Context,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="Between two looks.")
    ] = 1.0,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="End after so many looks.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each look, one a line.")
    ] = False,
) -> None:
    """Show peers, transfers, DHT, topics and documents of the node, live, until Ctrl-C."""
    client = _client(ctx)
    try:
        with by_daemon(client):
            looks = _looks(client, interval, count)
            if as_json:
                for status in looks:
                    say_json(status)
                return
            out = console()
            if not out.is_terminal:  # where rich shows the last look only, at the end
                for status in looks:
                    out.print(top_page(status))
                    out.file.flush()
                return
            from rich.live import Live

            with Live(
                console=out, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            ) as live:
                for status in looks:
                    live.update(top_page(status), refresh=True)
    except SystemExit as ended:
        # A signal is how it ends; an error is one.
        if not isinstance(ended.code, int) or ended.code < 128:
            raise


def _looks(client: NodeClient, interval: float, count: int | None) -> Iterator[dict[str, Any]]:
    """How the node is, every so many seconds; so many times, or without end."""
    import itertools
    import time

    for number in itertools.count() if count is None else range(count):
        if number:
            time.sleep(interval)
        yield _status(client)


def _client(ctx: typer.Context) -> NodeClient:
    return required_node(start(ctx, quiet=True))


def _status(client: NodeClient) -> dict[str, Any]:
    from lattica.daemon.api.status import plain

    return plain(client.status(timeout=10.0))


def status_lines(status: dict[str, Any]) -> list[str]:
    """The page of `status`, for a person."""
    lines = [
        f"peer ID   {status['peer_id']}",
        f"process   {status['pid']}, version {status['version']}, "
        f"up {duration(status['uptime_seconds'])}",
    ]
    lines += [f"address   {addr}" for addr in status["addrs"]]
    lines += [f"waiting   {reason}" for reason in status["announcing"]]
    direct = sum(peer["path"].startswith("direct") for peer in status["peers"])
    lines.append(
        f"peers     {len(status['peers'])}: {direct} direct, "
        f"{len(status['peers']) - direct} relayed"
    )
    lines += [
        f"serves    {each['name']}: {each['files']} {'file' if each['files'] == 1 else 'files'}, "
        f"{size(each['bytes'])}, {each['cid']}"
        for each in status["publications"]
    ]
    lines += [f"exposes   {each['name']} ({each['target']})" for each in status["ports"]]
    lines += [f"transfer  {transfer_line(each)}" for each in status["transfers"]]
    lines += [
        f"document  {document_line(each)}, {each['id']}"
        for each in status["documents"]
        if each["open"]
    ]
    lines += [f"topic     {topic_line(each)}" for each in status["topics"]]
    if status["dht"] is not None:
        lines.append(f"DHT       {dht_line(status['dht'])}")
    if status["relay"] is not None:
        lines.append(f"relay     {relay_line(status['relay'])}")
    return lines


def path_lines(peer: dict[str, Any]) -> list[str]:
    """What `paths` says of one peer."""
    lines = [f"{peer['peer_id']}  {peer['agent']}".rstrip()]
    for number, each in enumerate(peer["connections"]):
        used = "in use" if not number else "beside it"
        through = f" through {peer['relay']}" if peer["relay"] and not number else ""
        lines.append(
            f"  {each['path']}{through}, {used}, {each['direction']}, {rtt(each['rtt_seconds'])}, "
            f"{duration(each['age_seconds'])}, {each['streams']} streams, {each['cipher']}"
        )
        lines.append(f"    {each['addr']}")
    for each in peer["strategies"]:
        word = "worked" if each["ok"] else "failed" if each["applicable"] else "cannot work"
        reason = f": {each['reason']}" if each["reason"] else ""
        lines.append(f"  {each['name']} {word}{reason}")
    if peer["next_attempt_seconds"] is not None:
        lines.append(f"  next attempt in {duration(peer['next_attempt_seconds'])}")
    return lines


def peer_line(peer: dict[str, Any]) -> str:
    """What `peers` says of one: its ID can be copied whatever the width of the terminal."""
    count = sum(each["streams"] for each in peer["connections"])
    streams = f"{count:>4} {'stream' if count == 1 else 'streams'}"
    return (
        f"{peer['peer_id']}  {peer['path']:<12}  {rtt(peer['rtt_seconds']):>9}  "
        f"{duration(peer['age_seconds']):>10}  {streams:<12}  {peer['agent']}"
    ).rstrip()


def peer_table(peers: list[dict[str, Any]]) -> Table:
    """Peers and how each is reached, by the ends of their IDs."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("peer", no_wrap=True)
    for name in ("path", "rtt", "since", "streams", "runs"):
        table.add_column(name)
    for peer in peers:
        path = Text(peer["path"], "yellow" if peer["path"] == "relayed" else "green")
        table.add_row(
            f"…{peer['peer_id'][-_ID:]}",
            path,
            rtt(peer["rtt_seconds"]),
            duration(peer["age_seconds"]),
            str(sum(each["streams"] for each in peer["connections"])),
            Text(printable(peer["agent"])),
        )
    return table


def top_page(status: dict[str, Any]) -> Group:
    """What `top` shows."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = f"{status['peer_id']}  up {duration(status['uptime_seconds'])}"
    parts: list[Any] = [Text(head, "bold"), Text("")]
    if status["transfers"]:
        transfers = Table("transfer", "phase", "done", "rate", "from", box=None, pad_edge=False)
        for each in status["transfers"]:
            transfers.add_row(
                Text(printable(f"{each['kind']} {each['name']}"[:60])),
                each["phase"],
                f"{percent(each)} of {size(each['bytes_total'])}",
                f"{size(each['bytes_per_second'])}/s",
                str(each["sources"]),
            )
        parts += [transfers, Text("")]
    parts.append(peer_table(status["peers"]))
    rest = [f"topic {topic_line(each)}" for each in status["topics"]]
    rest += [f"document {document_line(each)}" for each in status["documents"] if each["open"]]
    if status["dht"] is not None:
        rest.append(f"DHT {dht_line(status['dht'])}")
    if status["relay"] is not None:
        rest.append(f"relay {relay_line(status['relay'])}")
    return Group(*parts, Text(""), *(Text(printable(line)) for line in rest))


def transfer_line(transfer: dict[str, Any]) -> str:
    """One transfer, for a person."""
    speed = f", {size(transfer['bytes_per_second'])}/s" if transfer["bytes_per_second"] else ""
    return (
        f"{transfer['kind']} {transfer['name'][:60]}: {transfer['phase']} {percent(transfer)} of "
        f"{size(transfer['bytes_total'])}{speed}"
    )


def document_line(document: dict[str, Any]) -> str:
    """One document that is open, for a person."""
    return f"{document['name']}: {document['peers']} peers"


def topic_line(topic: dict[str, Any]) -> str:
    """One topic, for a person."""
    return f"{topic['name']}: {topic['peers']} peers, {topic['subscriptions']} subscriptions"


def dht_line(dht: dict[str, Any]) -> str:
    """The DHT, for a person."""
    of = ""
    if dht["network_size"] is not None:
        error = dht["network_size_error"]
        of = f" of about {dht['network_size']:.0f}"
        of += f" (± {100 * error:.0f}%)" if error else ""
    due = ""
    if dht["reprovide_due"]:
        due = f", {dht['reprovide_due']} due for {duration(dht['reprovide_lag_seconds'])}"
    return (
        f"{dht['mode']}, {dht['peers']} peers{of}, {dht['values']} values and {dht['providers']} "
        f"providers kept ({dht['storage']}), {dht['provided']} provided{due}"
    )


def relay_line(relay: dict[str, Any]) -> str:
    """The load of a relay against its limits."""
    return (
        f"{relay['reservations']} of {relay['max_reservations']} reservations, "
        f"{relay['circuits']} of {relay['max_circuits']} circuits"
    )


def percent(transfer: dict[str, Any]) -> str:
    """How far it is."""
    total = transfer["bytes_total"]
    return f"{100 * transfer['bytes_done'] // total}%" if total else "?"


def size(count: float) -> str:
    """Bytes, for a person."""
    from lattica.content.disk import format_bytes

    return format_bytes(int(count))


def rtt(seconds: float | None) -> str:
    """A round trip, for a person."""
    return "?" if seconds is None else f"{seconds * 1000:.1f} ms"


def duration(seconds: float) -> str:
    """A time, for a person: the two greatest units."""
    whole = int(seconds)
    for unit, name, below, smaller in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name} {rest} {smaller}" if rest else f"{whole // unit} {name}"
    return f"{whole} s"
