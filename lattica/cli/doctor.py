"""`lattica doctor`: what keeps peers from reaching this machine, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lattica.cli.shared.common import EXIT_BAD, run, start
from lattica.cli.shared.options import OwnKeyOption
from lattica.cli.shared.terminal import console, say, say_json
from lattica.nat.base.printable import printable

if TYPE_CHECKING:
    from lattica.config import NodeConfig
    from lattica.doctor.facts import DoctorFacts
    from lattica.doctor.findings import Finding
    from lattica.doctor.reach import Reach
    from lattica.nat.swarm.addresses.nat_report import NatReport
    from lattica.nat.traversal.portmap.service import FamilyStatus


_ANSWER = 5.0
"""Seconds that a node which runs here has to say how it is."""


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command("doctor")(doctor_command)


def doctor_command(
    ctx: typer.Context,
    relay: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDR", help="Relay to ask, with /p2p/ID; may be repeated. Two know more."
        ),
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for answers.")
    ] = 20.0,
    own_key: OwnKeyOption = False,
    lifetime: Annotated[
        bool,
        typer.Option(
            "--lifetime",
            help="Measure how long idle UDP mappings live, too: takes minutes, ten at most or so.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Find out how peers can reach this machine.

    Only relays and peers that are configured are asked, and the local router; and the `lattica
    node` that runs here, if there is one.

    The exit status is 0 if nothing is bad, 3 if a row says that something is, and 1 if nothing
    could be found out.
    """
    from dataclasses import replace

    from lattica.cli.shared.listening import beside_others

    # Relays would take a second node of the same name for the first one.
    config = start(ctx, {"relays": relay}, keep_identity=own_key, quiet=True)
    listen = beside_others(config.swarm.listen)
    config = replace(config, swarm=replace(config.swarm, listen=listen))
    _print_progress(_whom(config, wait))
    beside = (*_machine(config), *_running(ctx, config))
    facts = run(_gather, config, wait, lifetime)
    if not _show(facts, beside, as_json):
        raise typer.Exit(EXIT_BAD)


def _print_progress(line: str) -> None:
    """To a person who waits: what is going on."""
    say(line, err=True)


def _whom(config: NodeConfig, wait: float) -> str:
    whom = []
    for count, name in (
        (len(config.nat.relay.relays), "relay"),
        (len(config.bootstrap), "bootstrap peer"),
    ):
        if count:
            whom.append(f"{count} {name}{'s' if count > 1 else ''}")
    if config.nat.port_mapping.enabled:
        whom.append("the router")
    names = " and ".join(filter(None, (", ".join(whom[:-1]), *whom[-1:])))
    return f"asking {names or 'nobody but this machine'}, up to {wait:g} s…"


async def _gather(config: NodeConfig, wait: float, lifetime: bool) -> DoctorFacts:
    from dataclasses import replace

    from lattica.doctor.facts import gather, measure_lifetime
    from lattica.node import Node

    async with Node(config) as node:
        facts = await gather(node, wait)
        if lifetime:
            facts = replace(facts, lifetime=await measure_lifetime(node, _print_progress))
        return facts


def _machine(config: NodeConfig) -> tuple[Finding, ...]:
    from lattica.doctor.machine import examine_machine, machine_facts

    return examine_machine(machine_facts(config.swarm.limits))


def _running(ctx: typer.Context, config: NodeConfig) -> tuple[Finding, ...]:
    """Findings about the node that runs here; none where there is none, or with `--no-daemon`."""
    import lattica
    from lattica.cli.shared.daemon import node_here
    from lattica.cli.shared.global_options import GlobalOptions
    from lattica.doctor.running_node import examine_running, unusable
    from lattica.errors import DaemonError

    options = ctx.find_object(GlobalOptions) or GlobalOptions()
    if options.no_daemon:
        return ()
    try:
        found = node_here(config)
        if found is None:
            return ()
        from lattica.daemon.api.status import plain

        with found as client:
            status = plain(client.status(timeout=_ANSWER))
    except (DaemonError, TimeoutError) as error:
        return (unusable(str(error)),)
    return examine_running(status, lattica.__version__)


def _show(facts: DoctorFacts, beside: Sequence[Finding], as_json: bool) -> bool:
    """Print it; whether nothing is bad."""
    from lattica.doctor.findings import State, examine
    from lattica.doctor.reach import reach_table

    findings, rows = (*examine(facts), *beside), reach_table(facts)
    if as_json:
        say_json(_json(facts, findings, rows), indent=2)
    else:
        _print_tables(findings, rows)
    return all(finding.state is not State.BAD for finding in findings)


def _print_tables(findings: Sequence[Finding], rows: Sequence[Reach]) -> None:
    from rich.table import Table
    from rich.text import Text

    from lattica.doctor.findings import State

    styles = {State.OK: "green", State.WARN: "yellow", State.BAD: "red", State.UNKNOWN: "dim"}
    table = Table(show_header=False, show_lines=True)
    for finding in findings:
        text = Text(printable(finding.text))
        if finding.advice:
            text.append(f"\n→ {printable(finding.advice)}", "bold")
        state = Text(finding.state.value, styles[finding.state])
        table.add_row(state, finding.topic, text)
    peers = Table("a peer that is behind", "gets here", title="Who can reach this machine")
    for row in rows:
        peers.add_row(row.peer.value, row.how.value)
    output = console()
    output.print(table)
    output.print(peers)


def _json(
    facts: DoctorFacts, findings: Sequence[Finding], rows: Sequence[Reach]
) -> dict[str, object]:
    """Findings, table and the main facts as JSON values."""
    status, life = facts.port_mapping, facts.lifetime
    return {
        "findings": [
            {"topic": f.topic, "state": f.state.value, "text": f.text, "advice": f.advice}
            for f in findings
        ],
        "peers": [
            {"peer": row.peer.name.lower(), "behind": row.peer.value, "how": row.how.name.lower()}
            for row in rows
        ],
        "listen": [str(addr) for addr in facts.listen],
        "interfaces": [str(interface) for interface in facts.interfaces],
        "nat": {"ipv4": _nat_json(facts.nat4), "ipv6": _nat_json(facts.nat6)},
        "mapping_lifetime": None if life is None else asdict(life),
        "addresses": [
            {
                "addr": str(fact.addr),
                "state": fact.state.value,
                "agreeing": fact.agreeing,
                "asked": fact.asked,
            }
            for fact in facts.addresses
        ],
        "port_mapping": [] if status is None else [_family_json(one) for one in status.families],
        "relays": [
            {
                "relay": relay.relay,
                "addrs": [str(addr) for addr in relay.addrs],
                "path": relay.path,
                "rtt_s": relay.rtt,
                "reserved": relay.reserved,
                "error": relay.error,
                "clock_offset_s": relay.clock_offset,
            }
            for relay in facts.relays
        ],
    }


def _nat_json(report: NatReport) -> dict[str, object]:
    return {
        "mapping": None if report.mapping is None else report.mapping.value,
        "filtering": None if report.filtering is None else report.filtering.value,
        "is_translated": report.is_translated,
        "preserves_port": report.preserves_port,
        "hairpin": report.hairpin,
        "udp_works": report.udp_works,
        "mapped": [list(address[:2]) for address in report.mapped],
    }


def _family_json(family: FamilyStatus) -> dict[str, object]:
    return {
        "family": family.family,
        "idle": family.idle,
        "gateway": None if family.gateway is None else str(family.gateway),
        "methods": [
            {
                "method": one.method.value,
                "state": one.state.value,
                "reason": None if one.reason is None else one.reason.name.lower(),
                "detail": one.detail,
            }
            for one in family.methods
        ],
        "mappings": [
            {
                "transport": m.port.transport.name.lower(),
                "port": m.port.number,
                "external": [str(m.external_ip), m.external_port],
                "method": m.method.value,
                "useless": m.useless,
            }
            for m in family.mappings
        ],
    }
