"""`python -m tools.soak`: a small mesh works while nodes come and go, and must not grow."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import trio
import typer
from rich.console import Console
from rich.table import Table

from tools.netlab.errors import LabError, plain_errors
from tools.netlab.runs.runner import Options, run_scenario
from tools.netlab.spec.strict import SpecError
from tools.soak.scenario import members, scenario, watched
from tools.soak.watch import Watcher

EXIT_FAILED, EXIT_NOT_RUN, EXIT_INTERRUPTED = 1, 2, 130


def table(watcher: Watcher) -> Table:
    """What became of each figure in the time that is judged."""
    shown = Table(title="by a straight line through the floor, without the first third")
    shown.add_column("program")
    shown.add_column("figure")
    for column in ("start", "end", "growth", "may grow", "per hour"):
        shown.add_column(column, justify="right")
    for each in watcher.judge():
        judged = each.trend
        colour = "green" if judged.is_flat else "red"
        shown.add_row(
            each.program,
            each.figure,
            f"{judged.start:.1f}",
            f"{judged.end:.1f}",
            f"[{colour}]{judged.growth:+.2f}[/{colour}]",
            f"{judged.bound:.1f}",
            f"{judged.per_hour:+.1f}",
        )
    return shown


def work_table(watcher: Watcher) -> Table:
    """What the members have done, and what of it failed."""
    shown = Table(title="work: done (failed)")
    shown.add_column("program")
    kinds = sorted({kind for event in watcher.last.values() for kind in event["done"]})
    for kind in kinds:
        shown.add_column(kind, justify="right")
    for name, event in sorted(watcher.last.items()):
        cells = (f"{event['done'].get(k, 0)} ({event['failed'].get(k, 0)})" for k in kinds)
        shown.add_row(name, *cells)
    return shown


def main(
    minutes: Annotated[float, typer.Option(min=0.1, max=10_080, help="How long.")] = 30.0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same faults.")] = 1,
    homes: Annotated[int, typer.Option(min=1, max=20, help="Members behind NATs.")] = 2,
    guests: Annotated[int, typer.Option(min=1, max=20, help="Members that come and go.")] = 2,
    gap: Annotated[float, typer.Option(min=0.5, help="Seconds between two faults, mean.")] = 6.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Leave the programs' logs there.")
    ] = None,
) -> None:
    """Nodes behind NATs and a public one publish, fetch, call, speak on a topic, write to a
    document and provide in the DHT, while guests and a relay are killed and come again, and NATs
    and lines fail. The memory, files, threads and tasks of those that stay must not grow.

    Needs root, or a user namespace: `unshare -rn`. Exit status: 0 all flat and all work done, 1
    something grew or failed, 2 it could not be run.
    """
    wanted = scenario(seed, minutes * 60, homes, guests, gap)
    print(f"seed {seed}: {wanted.about}", file=sys.stderr, flush=True)
    watcher = Watcher(watched(homes))

    def judge(_: object) -> list[str]:
        return watcher.undone(members(homes))

    def hear(program: str, event: dict[str, Any]) -> None:
        watcher.hear(program, event)
        if event.get("event") == "fault":
            print(f"{event['t']:8.1f} s  {event['what']}", file=sys.stderr, flush=True)

    try:
        with plain_errors():
            report = trio.run(run_scenario, wanted, Options(out=out), hear, judge, watcher.look)
    except (LabError, SpecError) as error:
        print(f"soak: error: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_NOT_RUN) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    failed = [f"{each.program}: {each.detail}" for each in report.outcomes if not each.ok]
    complaints = [*watcher.grown(), *failed, *report.complaints]
    if as_json:
        result = {"ok": not complaints, "seconds": report.seconds, "faults": len(report.faults)}
        print(json.dumps({**result, **watcher.as_json(), "complaints": complaints}))
    else:
        console = Console()
        console.print(table(watcher), work_table(watcher))
        for complaint in complaints:
            console.print(complaint, style="red", markup=False)
        console.print(f"{len(report.faults)} faults in {report.seconds:.0f} s", highlight=False)
    if complaints:
        raise typer.Exit(EXIT_FAILED)


if __name__ == "__main__":
    typer.run(main)
