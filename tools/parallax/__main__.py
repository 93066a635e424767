"""`python -m tools.parallax CHECKOUT`: one line for each step; exit status 0 if all went right."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import trio
import typer

from tools.bench.venvs import SetupError
from tools.netlab.errors import LabError
from tools.parallax.cluster import ClusterError, Network, open_cluster
from tools.parallax.packages import environment
from tools.parallax.steps import steps

Impl = Literal["lattica", "lattica-rs"]


def shown(result: dict[str, Any], impl: str, network: str, as_json: bool) -> str:
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}
    if as_json:
        return json.dumps({"impl": impl, "network": network, **rounded})
    rest = ", ".join(f"{name} {value}" for name, value in rounded.items() if name != "step")
    return f"{result['step']:14} {rest}"


async def run(
    checkout: Path, network: Network, impl: Impl, as_json: bool, logs: Path | None
) -> None:
    used = environment(impl, lambda text: print(text, file=sys.stderr, flush=True))
    async with open_cluster(network, checkout, used) as cluster:
        try:
            async for result in steps(cluster):
                print(shown(result, impl, network, as_json), flush=True)
        finally:
            if logs is not None:
                for name in cluster.running:
                    for each in (cluster.lab.folder / name).glob("*.log"):
                        (logs / name).mkdir(parents=True, exist_ok=True)
                        shutil.copy(each, logs / name)


def main(
    checkout: Annotated[Path, typer.Argument(help="Parallax's sources, with src/ in it.")],
    relay: Annotated[bool, typer.Option(help="NATs between which only a relay connects.")] = False,
    impl: Annotated[Impl, typer.Option(help="Ours, or the original 1.0.21.")] = "lattica",
    logs: Annotated[Path | None, typer.Option(help="Where the programs' logs are put.")] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Run Parallax unmodified, and show what each step took."""
    try:
        network: Network = "relay" if relay else "loopback"
        trio.run(run, checkout.resolve(), network, impl, json_lines, logs)
    except (ClusterError, LabError, SetupError) as error:
        print(f"failed: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    typer.run(main)
