"""Draws JSON lines of the benchmark: `python plot.py OUT.png < lines`. Needs matplotlib alone."""

from __future__ import annotations

import importlib
import json
import math
import sys
from typing import Any

COLOURS = {
    "lattica": "#1b7f5c",
    "lattica-rs": "#c96f2c",
    "grpcio": "#4c6fb0",
    "py-libp2p": "#8a6bbf",
    "tcp-cubic": "#999999",
    "tcp-bbr": "#555555",
}


def main() -> None:
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    plt: Any = importlib.import_module("matplotlib.pyplot")
    cases: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in sys.stdin:
        if line.strip():
            row = json.loads(line)
            cases.setdefault((row["bench"], row["case"]), []).append(row)
    columns = min(4, max(1, len(cases)))
    lines = max(1, math.ceil(len(cases) / columns))
    figure, grid = plt.subplots(lines, columns, figsize=(4 * columns, 2.4 * lines), squeeze=False)
    axes = [axis for row in grid for axis in row]
    for axis, ((bench, case), rows) in zip(axes, cases.items(), strict=False):
        names = [row["impl"] for row in rows]
        bars = axis.barh(
            names, [row["value"] for row in rows], color=[COLOURS.get(n, "#777777") for n in names]
        )
        axis.bar_label(bars, [f"{row['value']:,g}" for row in rows], padding=3, fontsize=8)
        axis.margins(x=0.25)
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
        axis.set_title(f"{bench}: {case}", fontsize=9)
        axis.set_xlabel(f"{rows[0]['unit']} ({rows[0]['better']} is better)", fontsize=8)
    for axis in axes[len(cases) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(sys.argv[1], dpi=120)


if __name__ == "__main__":
    main()
