"""`python -m tools.netlab`: build a small internet, run programs in it, and break it on purpose."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import trio
import typer
from rich.console import Console

from tools.netlab.calls import chaos as calls_
from tools.netlab.draw import draw as draw_
from tools.netlab.errors import LabError, plain_errors
from tools.netlab.lab import registry
from tools.netlab.lab.netns import enter_for_good
from tools.netlab.probe import probing
from tools.netlab.runs import chaos as chaos_
from tools.netlab.runs import matrix as matrix_
from tools.netlab.runs import netem as netem_
from tools.netlab.runs.matrix import PairResult
from tools.netlab.runs.report import Report
from tools.netlab.runs.runner import Options, run_scenario
from tools.netlab.spec import scenario as scenarios
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES
from tools.netlab.spec.strict import SpecError
from tools.netlab.wire.forwarder_client import PROJECT

EXIT_FAILED = 1
EXIT_NOT_RUN = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""A small internet on this machine: hosts, NATs and bad links in network namespaces.

    python -m tools.netlab list                     what there is to run

    python -m tools.netlab run home-to-home         run a scenario and see who reached whom

    python -m tools.netlab matrix                   every NAT type against every other

    python -m tools.netlab chaos --seed 7           random faults; the same again with seed 7

    python -m tools.netlab calls --seed 7           100,000 calls under faults, each counted

Needs root, or a user namespace: `unshare -rn .venv/bin/python -m tools.netlab …`. Whatever is
built is gone when the command ends, also when it is killed. Exit status: 0 all went well, 1
something in the lab failed, 2 the lab could not be run. See tools/netlab/README.md.""",
)

ScenarioArgument = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="Name of a shipped scenario, or a TOML file.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="JSON objects on standard output, one a line.")
]


def _fail(message: str) -> NoReturn:
    print(f"netlab: error: {message}", file=sys.stderr)
    raise typer.Exit(EXIT_NOT_RUN)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _line(value: object) -> None:
    print(json.dumps(value), flush=True)


def _load(name: str) -> Scenario:
    try:
        return scenarios.load(scenarios.find(name))
    except scenarios.ScenarioError as error:
        _fail(str(error))


def _run(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Run an async function; what keeps a lab from running is reported in a line."""
    try:
        with plain_errors():
            return trio.run(function, *arguments)
    except (LabError, SpecError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _event_printer(as_json: bool) -> Callable[[str, dict[str, Any]], None]:
    def show(program: str, event: dict[str, Any]) -> None:
        if as_json:
            _line({"program": program, **event} if program else event)
        elif event.get("event") == "fault":
            _say(f"{event['t']:7.1f} s  {event['what']}")

    return show


def _default_out(name: str) -> Path:
    """A folder in the checkout for what a run leaves; what the last one left is removed."""
    out = PROJECT / ".cache" / "netlab" / name
    shutil.rmtree(out, ignore_errors=True)
    return out


def _finish(report: Report, as_json: bool, out: Path) -> NoReturn:
    if as_json:
        _line({"event": "report", **report.as_json()})
    else:
        Console().print(report.as_table())
        _say(f"logs and a picture of the paths: {out}")
    raise typer.Exit(0 if report.ok else EXIT_FAILED)


@app.command("list")
def list_command() -> None:
    """Show the shipped scenarios, the NAT types, and the labs that run."""
    print("scenarios:")
    for name, path in scenarios.shipped().items():
        print(f"  {name:18} {scenarios.load(path).about}")
    print("NAT types (mapping / filtering / ports):")
    for name, spec in NAMES.items():
        what = (
            f"{spec.mapping} / {spec.filtering} / {spec.port}"
            if spec.translate == "ports"
            else f"{spec.translate} / {spec.filtering}"
        )
        print(f"  {name:22} {what}")
    print("labs:")
    for record in registry.labs():
        state = f"process {record.owner.pid}" if record.is_alive else "dead: netlab clean"
        print(f"  {record.lab:10} {record.scenario:18} {state}; {', '.join(record.namespaces)}")


@app.command("run")
def run_command(
    scenario: ScenarioArgument,
    as_json: JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Leave logs, captures and paths.svg there. Default: .cache/netlab/SCENARIO",
        ),
    ] = None,
    pcap: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="Capture this node's packets to DIR/NODE.pcap."),
    ] = None,
) -> None:
    """Run a scenario: its network, programs and faults; then a table of what came of it.

    With --json: every event of every program as it comes, and at last the report.

        python -m tools.netlab run office-firewall --out /tmp/office --pcap strict
    """
    wanted = _load(scenario)
    out = out or _default_out(wanted.name)
    options = Options(out=out, pcap=tuple(pcap or ()))
    _finish(_run(run_scenario, wanted, options, _event_printer(as_json)), as_json, out)


@app.command("matrix")
def matrix_command(
    as_json: JsonOption = False,
    types: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Only these NAT types (see `list`).")
    ] = None,
    all_types: Annotated[bool, typer.Option("--all", help="All NAT types there are.")] = False,
    jobs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Labs at a time.")] = None,
    delay: Annotated[
        float,
        typer.Option(
            metavar="MS", min=0, max=1000, help="From one machine to another; 25: 50 ms round trip."
        ),
    ] = 0.0,
) -> None:
    """Every NAT type against every other: does b reach a, by what path, and how soon.

    With --json one object a line, as each pair is done, and at last {"summary": …}:

        {"a": "full-cone", "b": "cgnat", "connected": true, "path": "direct-tcp", …}
    """
    chosen = matrix_.ALL_TYPES if all_types else matrix_.TYPES
    if types is not None:
        chosen = tuple(dict.fromkeys(name.strip() for name in types.split(",")))
    for name in chosen:
        if name not in matrix_.ALL_TYPES:
            _fail(f"there is no NAT type {name!r}; known are {', '.join(matrix_.ALL_TYPES)}")
    results: list[PairResult] = []
    wanted = matrix_.pairs(chosen)

    def take(result: PairResult) -> None:
        results.append(result)
        if as_json:
            _line(result.as_json())
        else:
            how = result.path or "not connected"
            _say(f"{len(results):4}/{len(wanted)}  {result.b} to {result.a}: {how}")

    _run(matrix_.run_matrix, wanted, jobs or matrix_.default_jobs(), take, delay / 1000)
    found = matrix_.summary(results)
    if as_json:
        _line({"summary": found})
    else:
        Console().print(matrix_.table(chosen, results), matrix_.summary_table(found))


@app.command("chaos")
def chaos_command(
    seed: Annotated[int, typer.Option(help="The same seed makes the same mesh and faults.")] = 1,
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="How long faults go on.")] = 2.0,
    nodes: Annotated[int, typer.Option(min=1, max=200, help="Nodes beside the two hubs.")] = 6,
    as_json: JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Leave logs and paths.svg there. Default: .cache/netlab/chaos-SEED",
        ),
    ] = None,
) -> None:
    """Random faults over a mesh: cut links, rebooting NATs, killed and stopped processes,
    partitions, wrong clocks. At the end no node may have crashed, nobody may believe in a dead
    connection, and a newcomer must reach every public node.
    """
    wanted = chaos_.mesh(seed, minutes, nodes)
    if not as_json:
        _say(f"seed {seed}: {len(wanted.faults)} faults in {minutes:g} minutes, {nodes + 2} nodes")
    out = out or _default_out(wanted.name)
    options = Options(out=out)
    report = _run(run_scenario, wanted, options, _event_printer(as_json), chaos_.judge)
    _finish(report, as_json, out)


@app.command("calls")
def calls_command(
    seed: Annotated[int, typer.Option(help="The same seed makes the same faults.")] = 1,
    calls: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many.")] = 100_000,
    minutes: Annotated[
        float, typer.Option(min=0.5, max=1440, help="Over which they are spread, with faults.")
    ] = 5.0,
    as_json: JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Leave logs and paths.svg there. Default: .cache/netlab/calls-SEED"
        ),
    ] = None,
) -> None:
    """Calls of a counter while paths change and programs are killed. Each is counted when it is
    attempted, executed and acknowledged: none may run twice, none that is acknowledged may be
    missing, and none may have run of which its caller was told that it had not.
    """
    wanted = calls_.scenario(seed, calls, minutes * 60)
    if not as_json:
        _say(f"seed {seed}: {wanted.about}")
    out = out or _default_out(wanted.name)
    judge = calls_.Judge()
    report = _run(run_scenario, wanted, Options(out=out), _event_printer(as_json), judge)
    if judge.tally is not None:
        _line({"event": "tally", **judge.tally.as_json()})
    _finish(report, as_json, out)


@app.command("probe")
def probe_command(
    types: Annotated[
        list[str] | None, typer.Argument(metavar="TYPE…", help="NAT types; all by default.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="nftables, userspace, or auto: what the lab takes by itself.")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Build each NAT type and find out by a STUN-like probe how it behaves."""
    names = types or list(NAMES)
    for name in names:
        if name not in NAMES:
            _fail(f"there is no NAT type {name!r}; known are {', '.join(NAMES)}")
    if backend not in ("auto", "nftables", "userspace"):
        _fail("--backend is auto, nftables or userspace")
    findings = _run(probing.probe_types, names, backend)
    if as_json:
        for finding in findings:
            _line(finding.as_json())
    else:
        Console().print(probing.table(findings))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(EXIT_FAILED)


@app.command("draw")
def draw_command(
    scenario: ScenarioArgument,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.svg", help="Default: SCENARIO.svg")
    ] = None,
) -> None:
    """Draw a scenario's topology as SVG. (`run --out DIR` also draws the paths that were used.)"""
    wanted = _load(scenario)
    _write(out or Path(f"{wanted.name}.svg"), draw_.picture(wanted))


@app.command("netem")
def netem_command(
    scenario: ScenarioArgument,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.sh", help="Default: stdout.")
    ] = None,
) -> None:
    """Write a shell script that gives a real router a scenario's links, with tc netem."""
    text = netem_.script(_load(scenario))
    if out is None:
        print(text, end="")
    else:
        _write(out, text)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        _fail(f"{file}: {error.strerror}")
    _say(f"wrote {file}")


@app.command("clean")
def clean_command(
    everything: Annotated[
        bool, typer.Option("--all", help="Also end labs that still run.")
    ] = False,
) -> None:
    """Remove what dead labs left (a folder at most; see `list`)."""
    removed = registry.clean(running=everything)
    for record in removed:
        _say(f"removed {record.lab} ({record.scenario})")
    if not removed:
        _say("nothing to remove")


@app.command("exec", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def exec_command(
    node: Annotated[str, typer.Argument(metavar="NODE", help="`internet` is the core.")],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND…")],
    lab: Annotated[
        str, typer.Option(metavar="LAB", help="Which lab, if several run; see `list`.")
    ] = "",
) -> None:
    """Run a command on a node of a lab that is running, e.g. `exec alice ip route`."""
    record = registry.find(lab)
    if record is None:
        _fail("there is no such lab; `list` shows those that run (name one if there are several)")
    if node not in record.namespaces:
        _fail(f"{record.lab} has no node {node!r}; there are {', '.join(record.namespaces)}")
    try:
        enter_for_good(record.namespaces[node])
        os.execvp(command[0], command)
    except (OSError, LabError) as error:
        _fail(f"{command[0]}: {error}")


def main() -> None:
    """The command line; errors of the system (a full disk, say) are reported in a line."""
    try:
        app(prog_name="python -m tools.netlab")
    except OSError as error:
        print(f"netlab: error: {error}", file=sys.stderr)
        sys.exit(EXIT_NOT_RUN)


if __name__ == "__main__":
    main()
