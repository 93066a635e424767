"""Pictures: a scenario's topology as SVG, and the paths that a run used. Pure.

A path is drawn by way of the internet, or the router that both ends are behind; text is above all.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from html import escape

from tools.netlab.draw.layout import (
    BAR_H,
    BOX_H,
    BOX_W,
    GAP_Y,
    LINE_H,
    LINK_H,
    MARGIN,
    Box,
    Layout,
    link_label,
    nat_label,
)
from tools.netlab.runs.mesh import RELAYED
from tools.netlab.runs.report import Report
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.topology import INTERNET, Host, Link, Router
from tools.netlab.spec.workload import FetchProgram

HEAD_H = 62
LEGEND_W, LEGEND_H = 640, 34
ABOUT_COLUMNS = 100
"""Characters in a line of the scenario's description."""
ABOUT_CHAR_W = 7.0

COLOURS = {
    "ink": "#1f2933",
    "faint": "#7b8794",
    "line": "#9aa5b1",
    "host": "#e3f0ff",
    "host-edge": "#4a7fb5",
    "relay": "#f3e8ff",
    "relay-edge": "#8452b8",
    "router": "#fff3d6",
    "router-edge": "#b5822a",
    "internet": "#e4e7eb",
    "direct": "#1a9850",
    "relayed": "#e66101",
    "fetched": "#2b6cb0",
    "failed": "#c5221f",
}
FETCHED = "fetched"
BESIDE = {"direct": 0.0, RELAYED: 6.0, FETCHED: 12.0}
"""Between the same hosts there may be a path of each kind."""
DASHES = {
    "direct": "",
    RELAYED: ' stroke-dasharray="7 5"',
    FETCHED: ' stroke-dasharray="2 4"',
}


def picture(scenario: Scenario, report: Report | None = None) -> str:
    """The SVG document. With a report, the paths that connections took are drawn, too."""
    return _Picture(scenario, report).document()


class _Picture:
    def __init__(self, scenario: Scenario, report: Report | None) -> None:
        self.scenario = scenario
        self.report = report
        self.relays = {relay.name for relay in scenario.relays}
        self.programs: dict[str, list[str]] = {}
        for program in scenario.all_programs:
            if program.name not in self.relays:
                self.programs.setdefault(program.host, []).append(program.name)
        self.hosts = {program.name: program.host for program in scenario.all_programs}
        outcomes = report.outcomes if report is not None else ()
        self.failed = {outcome.program for outcome in outcomes if not outcome.ok}
        self.about = textwrap.wrap(" ".join(scenario.about.split()), ABOUT_COLUMNS)
        head = HEAD_H + 16 * max(0, len(self.about) - 1)
        least = max(LEGEND_W, ABOUT_CHAR_W * max(map(len, self.about), default=0))
        self.layout = Layout(scenario, head, least)
        self.boxes = self.layout.boxes
        self.width = self.layout.width
        self.height = self.layout.height + (LEGEND_H if report is not None else 0)

    def document(self) -> str:
        body = "\n".join(
            (
                *self._head(),
                *self._links(),
                self._bar(),
                *self._paths(),
                *self._nodes(),
                *self._labels(),
                *self._legend(),
            )
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:.0f}" '
            f'height="{self.height:.0f}" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            f'font-family="system-ui, sans-serif" font-size="12" fill="{COLOURS["ink"]}">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n'
            f"{body}\n</svg>\n"
        )

    def _head(self) -> Iterator[str]:
        title = escape(self.scenario.name)
        yield f'<text x="{MARGIN}" y="30" font-size="17" font-weight="600">{title}</text>'
        for number, line in enumerate(self.about):
            y = 49 + 16 * number
            yield f'<text x="{MARGIN}" y="{y}" fill="{COLOURS["faint"]}">{escape(line)}</text>'

    def _bar(self) -> str:
        # As wide as the picture: links of a second row reach it beside the first column.
        x = MARGIN / 4
        return (
            f'<rect x="{x:.1f}" y="{self.layout.bar_y:.1f}" width="{self.width - 2 * x:.1f}" '
            f'height="{BAR_H}" rx="8" fill="{COLOURS["internet"]}"/>'
        )

    def _anchor(self, parent: str, child: Box, x: float) -> tuple[float, float]:
        """Where a node's link ends at what it is behind."""
        if parent == INTERNET:
            return x, self.layout.bar_y + (BAR_H if child.up else 0)
        box = self.boxes[parent]
        return box.middle, box.y + BOX_H

    def _links(self) -> Iterator[str]:
        for box in self.boxes.values():
            node = box.node
            yield self._line(box, node.behind, standby=False)
            if isinstance(node, Host) and node.standby is not None:
                yield self._line(box, node.standby, standby=True)

    def _line(self, box: Box, parent: str, *, standby: bool) -> str:
        start = box.port(standby=standby)
        end = self._anchor(parent, box, start[0])
        dash = ' stroke-dasharray="5 4"' if standby else ""
        return (
            f'<path d="{_route(box, start, end, standby=standby)}" fill="none" '
            f'stroke="{COLOURS["line"]}" stroke-width="1.6"{dash}/>'
        )

    def _labels(self) -> Iterator[str]:
        for box in self.boxes.values():
            yield from _label(box, box.node.link, standby=False)
            if isinstance(box.node, Host) and box.node.standby is not None:
                yield from _label(box, box.node.standby_link, standby=True)
        families = "IPv4 and IPv6" if self.scenario.ipv6 else "IPv4"
        text = f"internet ({families})"
        yield _over(
            f'x="{self.width / 2:.1f}" y="{self.layout.bar_y + BAR_H / 2 + 5:.1f}" '
            f'text-anchor="middle" font-size="14"',
            text,
            COLOURS["ink"],
            COLOURS["internet"],
        )

    def _nodes(self) -> Iterator[str]:
        for box in self.boxes.values():
            node = box.node
            programs = self.programs.get(node.name, [])
            if isinstance(node, Router):
                look, words = "router", [(nat_label(node.nat), False)]
            elif node.name in self.relays:
                look, words = "relay", [("relay", node.name in self.failed)]
            else:
                look, words = "host", [(name, name in self.failed) for name in programs]
            fill, edge = COLOURS[look], COLOURS[f"{look}-edge"]
            corner = 4 if look == "router" else 10
            yield (
                f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{BOX_W}" height="{BOX_H}" '
                f'rx="{corner}" fill="{fill}" stroke="{edge}" stroke-width="1.4"/>'
            )
            at = f'x="{box.middle:.1f}" text-anchor="middle"'
            name, title = _fitted(node.name, 12)
            yield (
                f'<text {at} y="{box.y + 19:.1f}" font-size="12" font-weight="600">'
                f"{name}{title}</text>"
            )
            yield (
                f'<text {at} y="{box.y + 35:.1f}" font-size="10" fill="{COLOURS["faint"]}">'
                f"{_words(words)}</text>"
            )

    def _paths(self) -> Iterator[str]:
        if self.report is None:
            return
        for path in self.report.paths:
            yield from self._path(path.source, path.target, path.kind)
        succeeded = {outcome.program for outcome in self.report.outcomes if outcome.ok}
        for program in self.scenario.programs:
            if isinstance(program, FetchProgram) and program.name in succeeded:
                yield from self._path(program.name, program.source, FETCHED)

    def _path(self, source: str, target: str, kind: str) -> Iterator[str]:
        one, two = self.hosts.get(source), self.hosts.get(target)
        if one is None or two is None or one == two:
            return
        look = kind if kind in (RELAYED, FETCHED) else "direct"
        title = escape(f"{source} – {target}: {kind}")
        yield (
            f'<path d="{self._curve(self.boxes[one], self.boxes[two], BESIDE[look])}" fill="none" '
            f'stroke="{COLOURS[look]}" stroke-width="2" opacity="0.7"{DASHES[look]}>'
            f"<title>{title}</title></path>"
        )

    def _curve(self, one: Box, two: Box, beside: float) -> str:
        """From one box to another by way of what both are behind.

        beside: so far inside the curve of a direct connection.
        """
        above = self.scenario.path_up(two.node.name)
        common = next(
            (name for name in self.scenario.path_up(one.node.name)[1:] if name in above), INTERNET
        )
        if common == INTERNET:
            middle = self.layout.bar_y + BAR_H / 2
        else:
            middle = self.boxes[common].y + BOX_H
        middle += beside if two.up == one.up and one.up else -beside
        first, second = self._leave(one, two, beside), self._leave(two, one, beside)
        (x1, _), (x2, y2) = first[-1], second[-1]
        start = " L".join(f"{x:.1f} {y:.1f}" for x, y in first)
        end = "".join(f" L{x:.1f} {y:.1f}" for x, y in reversed(second[:-1]))
        return f"M{start} C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2:.1f}{end}"

    def _leave(self, box: Box, other: Box, beside: float) -> list[tuple[float, float]]:
        """How a path comes out of a box: beside its link, towards the other end's side."""
        aside = 0.08 * (other.middle - box.middle)
        aside = max(-BOX_W / 3, min(aside, BOX_W / 3))
        if abs(aside) < 8:
            aside = 8 if aside >= 0 else -8
        aside += beside if aside > 0 else -beside
        out = [(box.middle + aside, box.edge)]
        if box.is_far:
            away = -1 if box.up else 1
            _, above = self._anchor(box.node.behind, box, box.middle)
            y, x = box.edge + away * GAP_Y / 3, box.lane + 4 + beside / 2
            out += [(box.middle + aside, y), (x, y), (x, above - away * LINK_H)]
        return out

    def _legend(self) -> Iterator[str]:
        if self.report is None:
            return
        x, y = float(MARGIN), self.height - 20
        for look, text in (
            ("direct", "direct connection"),
            (RELAYED, "relayed connection"),
            (FETCHED, "content fetched"),
        ):
            yield (
                f'<path d="M{x} {y} h34" stroke="{COLOURS[look]}" stroke-width="2"{DASHES[look]}/>'
                f'<text x="{x + 42}" y="{y + 4}">{text}</text>'
            )
            x += 178
        yield f'<text x="{x}" y="{y + 4}" fill="{COLOURS["failed"]}">program failed</text>'


def _route(box: Box, start: tuple[float, float], end: tuple[float, float], *, standby: bool) -> str:
    """The way of a link: up, along a bus above the first row, and up again."""
    (x1, y1), (x2, y2) = start, end
    if abs(y1 - y2) <= LINK_H + 1:
        # Second attachments have a bus of their own, above that of the first.
        bus = y1 + (y2 - y1) * (0.68 if standby else 0.5)
        return f"M{x1:.1f} {y1:.1f} V{bus:.1f} H{x2:.1f} V{y2:.1f}"
    # From a row further away, between the columns.
    if not box.up:
        return f"M{x1:.1f} {y1:.1f} V{y1 + GAP_Y / 2:.1f} H{box.lane:.1f} V{y2:.1f}"
    return (
        f"M{x1:.1f} {y1:.1f} V{y1 - GAP_Y / 2:.1f} H{box.lane:.1f} "
        f"V{y2 + LINK_H / 2:.1f} H{x2:.1f} V{y2:.1f}"
    )


def _label(box: Box, link: Link, *, standby: bool) -> Iterator[str]:
    """What is written beside a link: to the left of the first of two, else to the right."""
    x, y = box.port(standby=standby)
    on_left = isinstance(box.node, Host) and box.node.standby is not None and not standby
    x += -5 if on_left else 5
    anchor = "end" if on_left else "start"
    lines = link_label(link)
    for number, text in enumerate(lines):
        below = y - 8 - LINE_H * (len(lines) - 1 - number) if box.up else y + 16 + LINE_H * number
        where = f'x="{x:.1f}" y="{below:.1f}" font-size="10" text-anchor="{anchor}"'
        yield _over(where, text, COLOURS["faint"], "white")


def _over(where: str, text: str, colour: str, ground: str) -> str:
    """Text that stays readable over lines: first its outline in the colour of the ground."""
    shown = escape(text)
    return (
        f'<text {where} fill="{ground}" stroke="{ground}" stroke-width="3.5" '
        f'stroke-linejoin="round" aria-hidden="true">{shown}</text>'
        f'<text {where} fill="{colour}">{shown}</text>'
    )


def _words(words: Sequence[tuple[str, bool]]) -> str:
    """Names below a node's, those of failed programs in their colour, cut to the box's width."""
    whole = ", ".join(word for word, _ in words)
    shown, title = _fitted(whole, 10)
    if title:
        failed = ", ".join(word for word, is_failed in words if is_failed)
        return (
            f'<tspan fill="{COLOURS["failed"]}">{shown}</tspan>{title}' if failed else shown + title
        )
    return ", ".join(
        f'<tspan fill="{COLOURS["failed"]}">{escape(word)}</tspan>' if is_failed else escape(word)
        for word, is_failed in words
    )


def _fitted(text: str, size: int) -> tuple[str, str]:
    """Text cut to a box's width, and a `title` that has the whole, if it was cut."""
    room = int(BOX_W / (size * 0.56))
    if len(text) <= room:
        return escape(text), ""
    return escape(f"{text[: room - 1]}…"), f"<title>{escape(text)}</title>"
