"""`python -m tools.bench NAME`: run benchmarks, ours and peers', and show or print the figures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console
from rich.table import Table

from tools.bench import venvs
from tools.bench.cases import BENCHES, OURS, Workload, select
from tools.bench.dht import scenarios as dht
from tools.bench.dht.eclipse import run_eclipse
from tools.bench.dht.real import run_real
from tools.bench.figures.stats import Measurement, by_case, is_better, json_line, ratio, rounded
from tools.bench.links import lossy_link
from tools.bench.runner import HERE, PROGRAMS, Failure, Program, Settings, run_workload
from tools.bench.topics import scenarios as topics

PLOT_REQUIREMENTS = ("matplotlib>=3.8",)


def say(text: str) -> None:
    """Progress and complaints go to stderr; stdout has the figures alone."""
    print(text, file=sys.stderr, flush=True)


def programs(peers: list[str], ours: bool) -> tuple[list[Program], list[str]]:
    """Ours and the peers that can be installed; and a message for each that cannot."""
    chosen = [_program(venvs.OURS, Path(sys.executable))] if ours else []
    complaints = []
    for name in dict.fromkeys(peers):
        peer = venvs.PEERS[name]
        try:
            python = Path(sys.executable)
            if peer.requirements:
                python = venvs.ensure(name, peer.requirements, say)
        except venvs.SetupError as error:
            complaints.append(str(error))
        else:
            chosen.append(_program(peer, python))
    return chosen, complaints


def _program(peer: venvs.Peer, python: Path) -> Program:
    between = _program(venvs.OURS, Path(sys.executable)) if peer.relays else None
    return Program(peer.name, python, PROGRAMS / peer.script, peer.variant, peer.sender, between)


def with_references(workload: Workload, chosen: list[Program]) -> list[Program]:
    """The chosen ones, and what the workload is always compared with."""
    references = [venvs.REFERENCES[name] for name in workload.references]
    return [*chosen, *(_program(peer, Path(sys.executable)) for peer in references)]


def tables(measurements: list[Measurement]) -> list[Table]:
    """One for each bench: cases down, implementations across, and the ratio of ours to each."""
    benches = dict.fromkeys(m.case.bench for m in measurements)
    return [_table(bench, [m for m in measurements if m.case.bench == bench]) for bench in benches]


def _table(bench: str, measurements: list[Measurement]) -> Table:
    impls = list(dict.fromkeys(m.impl for m in measurements))
    peers = [impl for impl in impls if impl != OURS]
    shown = Table(title=f"{bench}: median of the rounds; green: ours is the better one")
    for column in ("case", "unit", *impls):
        shown.add_column(column, no_wrap=True, justify="right" if column in impls else "left")
    if OURS in impls:
        for peer in peers:
            shown.add_column(f"ours / {peer}", justify="right")
    for case, row in by_case(measurements).items():
        cells = [f"{rounded(row[impl].value):g}" if impl in row else "-" for impl in impls]
        if OURS in impls:
            cells += [_ratio_cell(row.get(OURS), row.get(peer)) for peer in peers]
        shown.add_row(case.name, case.unit, *cells)
    return shown


def _ratio_cell(ours: Measurement | None, peer: Measurement | None) -> str:
    if ours is None or peer is None or (value := ratio(ours, peer)) is None:
        return "-"
    colour = "green" if is_better(ours, peer) else "red"
    return f"[{colour}]{value:.2f}[/{colour}]"


def plot(lines: list[str], target: Path) -> None:
    """Draw the figures. matplotlib is taken from here, or from an environment made for it."""
    if find_spec("matplotlib") is not None:
        python = Path(sys.executable)
    else:
        python = venvs.ensure("plot", PLOT_REQUIREMENTS, say)
    command = [str(python), str(HERE / "figures" / "plot.py"), str(target.resolve())]
    done = subprocess.run(command, input="\n".join(lines), text=True, check=False)
    if done.returncode != 0:
        raise venvs.SetupError(f"drawing {target} failed")
    say(f"wrote {target}")


def report(failure: Failure) -> None:
    verb = "cannot do" if failure.unsupported else "FAILED"
    say(f"{failure.impl} {verb} {failure.workload}: {failure.message}")


def measure(
    workloads: tuple[Workload, ...], chosen: list[Program], settings: Settings, as_json: bool
) -> tuple[list[Measurement], bool]:
    """Run everything; whether all went well. JSON lines are printed as they come."""
    measurements: list[Measurement] = []
    well = True
    for workload in workloads:
        if workload.path == "lossy" and (reason := lossy_link.obstacle()) is not None:
            say(f"skipped {workload.label}: {reason}")
            continue
        taking_part = with_references(workload, chosen)
        done, failures = trio.run(
            run_workload, workload, taking_part, settings, Path(sys.executable), say
        )
        for failure in failures:
            report(failure)
            well = well and failure.unsupported
        measurements += done
        if as_json:
            for measurement in done:
                print(json_line(measurement), flush=True)
    return measurements, well


def simulate(found: Iterable[Measurement], as_json: bool) -> list[Measurement]:
    """Measure what needs no processes. JSON lines are printed as they come."""
    measurements = []
    for measurement in found:
        measurements.append(measurement)
        if as_json:
            print(json_line(measurement), flush=True)
    return measurements


def main(
    name: Annotated[str, typer.Argument(help=f"all, {', '.join(BENCHES)}, crdt, dht, topics")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    peer: Annotated[
        list[str] | None,
        typer.Option(help=f"Also run this peer (repeatable): {', '.join(venvs.PEERS)}."),
    ] = None,
    no_peers: Annotated[
        bool, typer.Option("--no-peers", help="`all` runs every peer unless told which, or this.")
    ] = False,
    no_ours: Annotated[bool, typer.Option("--no-ours", help="Peers alone.")] = False,
    case: Annotated[
        list[str] | None,
        typer.Option(
            help="Only what yields this case (repeatable). dht: " + ", ".join(dht.NAMES) + "."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Measured time of one run.")] = 2.0,
    plot_to: Annotated[
        Path | None, typer.Option("--plot", help="Draw the comparison into this PNG file.")
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=3,
            help="Nodes that are simulated; dht: 10,000 (50 real ones, 16 beside Sybils), "
            "topics: 1,000.",
        ),
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="dht: real nodes on loopback, a third of them killed.")
    ] = False,
    real_eclipse: Annotated[
        bool,
        typer.Option("--real-eclipse", help="dht: real nodes, beside Sybils next to two keys."),
    ] = False,
    lookups: Annotated[int, typer.Option(min=1, help="dht: lookups that are measured.")] = 1000,
    keys: Annotated[
        int, typer.Option(min=1000, help="crdt: keys of a document; authors are a tenth.")
    ] = 100_000,
    messages: Annotated[int, typer.Option(min=1, help="topics: messages published.")] = 100,
    seed: Annotated[
        int, typer.Option(help="dht, topics: the same one gives the same figures.")
    ] = 1,
) -> None:
    """Measure Lattica on this machine's loopback, and peers doing the same work beside it.

    bulk, rpc and ports go over TCP, quic over QUIC, relay through a third process. The lossy cases
    of quic run in the network lab, which needs root; without it they are skipped. dht and topics
    are simulations in virtual time, and crdt is documents without a network; `all` leaves them out.
    """
    peers = list(peer or ())
    if name == "all" and not peers and not no_peers:
        peers = list(venvs.PEERS)
    if unknown := [p for p in peers if p not in venvs.PEERS]:
        raise typer.BadParameter(f"unknown peer {unknown[0]!r}; known: {', '.join(venvs.PEERS)}")
    complaints: list[str] = []
    if name == "dht" and real:
        if wrong := [p for p in peers if p != "hivemind"]:
            raise typer.BadParameter(f"the DHT of {wrong[0]!r} is not measured; hivemind's is")
        python = None
        if peers:
            hivemind = venvs.PEERS["hivemind"]
            python = venvs.ensure(hivemind.name, hivemind.requirements, say)
        found = run_real(nodes or 50, 100, 10_000, seed, python)
        measurements, well = simulate(found, json), True
    elif name == "dht" and real_eclipse:
        measurements, well = simulate(run_eclipse(nodes or 16, seed), json), True
    elif name == "dht":
        try:
            found = dht.run_all(nodes or 10_000, lookups, seed, cases=tuple(case or ()), say=say)
            measurements, well = simulate(found, json), True
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    elif name == "crdt":
        from tools.bench.crdt.scenarios import run_all as run_crdt  # needs the extra `text`

        documents = run_crdt(keys, max(20, keys // 10), repeats, say)
        measurements, well = simulate(documents, json), True
    elif name == "topics":
        measurements, well = simulate(topics.run_all(nodes or 1000, messages, seed), json), True
    else:
        try:
            workloads = select(name, tuple(case or ()))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        chosen, complaints = programs(peers, not no_ours)
        settings = Settings(repeats=repeats, seconds=seconds)
        measurements, well = measure(workloads, chosen, settings, json)
    if not json:
        console = Console()
        if not console.is_terminal:
            console.width = 160
        for shown in tables(measurements):
            console.print(shown)
    if plot_to is not None and measurements:
        try:
            plot([json_line(m) for m in measurements], plot_to)
        except venvs.SetupError as error:
            complaints.append(str(error))
    for complaint in complaints:
        say(f"FAILED: {complaint}")
    if complaints or not well:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
