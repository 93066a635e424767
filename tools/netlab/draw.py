"""Pictures: a scenario's topology as SVG, and the paths that a run used. Pure.

The internet is a bar; hosts at it stand above, routers hang below, and under each router its
hosts in rows of up to :data:`COLUMNS`, and beside them the routers behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from tools.netlab.link_spec import LinkSpec
from tools.netlab.mesh import RELAYED
from tools.netlab.model import Scenario
from tools.netlab.nat_spec import NAMES, NatSpec
from tools.netlab.report import Report
from tools.netlab.topology import INTERNET, Host, Link, Node, Router
from tools.netlab.workload import FetchProgram

COLUMNS = 4
BOX_W, BOX_H = 132, 46
GAP_X, GAP_Y = 22, 26
SITE_GAP = 56
LINK_H = 74
"""Room for a link's label between a node and what it is behind."""
MARGIN = 28
BAR_H = 40
HEAD_H = 62
LEGEND_W = 560

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
}
FETCHED = "fetched"
DASHES = {
    "direct": "",
    RELAYED: ' stroke-dasharray="7 5"',
    FETCHED: ' stroke-dasharray="2 4"',
}


@dataclass(frozen=True, slots=True)
class _Box:
    """A placed node; `x`, `y` is its upper left corner."""

    node: Node
    x: float
    y: float
    up: bool
    """Its link leaves at its top (or at its bottom: it stands on the internet)."""

    @property
    def middle(self) -> float:
        return self.x + BOX_W / 2

    @property
    def port(self) -> tuple[float, float]:
        """Where its link begins."""
        return self.middle, self.y if self.up else self.y + BOX_H


def picture(scenario: Scenario, report: Report | None = None) -> str:
    """The SVG document. With a report, the paths that connections took are drawn, too."""
    return _Picture(scenario, report).document()


def nat_label(spec: NatSpec) -> str:
    """The name of a NAT's type, or what it does if that has no name."""
    for name, known in NAMES.items():
        if known == spec:
            return name
    short = {
        "endpoint-independent": "EI",
        "address-dependent": "AD",
        "address-and-port-dependent": "APD",
    }
    if spec.translate == "none":
        return f"firewall, {short[spec.filtering]} filter"
    if spec.translate == "one-to-one":
        return f"one-to-one, {short[spec.filtering]} filter"
    return f"{short[spec.mapping]}M / {short[spec.filtering]}F / {spec.port}"


def link_label(link: Link) -> list[str]:
    """Lines of text: nothing for a perfect link, one if both directions are alike."""
    up, down = _direction_label(link.up), _direction_label(link.down)
    if up == down:
        return [up] if up else []
    return [f"↑ {up or 'perfect'}", f"↓ {down or 'perfect'}"]


def _direction_label(spec: LinkSpec) -> str:
    parts = []
    if spec.rate_bps is not None:
        parts.append(_rate(spec.rate_bps))
    if spec.delay_s:
        jitter = f"±{spec.jitter_s * 1e3:g}" if spec.jitter_s else ""
        parts.append(f"{spec.delay_s * 1e3:g}{jitter} ms")
    loss = spec.loss + (spec.burst.mean_loss if spec.burst else 0.0)
    if loss:
        parts.append(f"{loss * 100:.2g}% loss{' in bursts' if spec.burst else ''}")
    if spec.reorder:
        parts.append(f"{spec.reorder * 100:.2g}% reordered")
    if spec.duplicate:
        parts.append(f"{spec.duplicate * 100:.2g}% twice")
    return ", ".join(parts)


def _rate(bps: float) -> str:
    for unit, name in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bps >= unit:
            return f"{bps / unit:g} {name}"
    return f"{bps:g} bit/s"


class _Picture:
    def __init__(self, scenario: Scenario, report: Report | None) -> None:
        self.scenario = scenario
        self.report = report
        self.children: dict[str, list[Node]] = {INTERNET: []}
        for router in scenario.routers:
            self.children[router.name] = []
        for node in scenario.nodes:
            self.children[node.behind].append(node)
        self.relays = {relay.name for relay in scenario.relays}
        self.programs: dict[str, list[str]] = {}
        for program in scenario.all_programs:
            if program.name not in self.relays:
                self.programs.setdefault(program.host, []).append(program.name)
        self.hosts = {program.name: program.host for program in scenario.all_programs}
        self.boxes: dict[str, _Box] = {}
        self.bar_y = 0.0
        self.width = 0.0
        self.height = 0.0

    def document(self) -> str:
        self._place()
        body = "\n".join((*self._links(), self._bar(), *self._paths(), *self._nodes()))
        title = escape(self.scenario.name)
        about = escape(" ".join(self.scenario.about.split()))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:.0f}" '
            f'height="{self.height:.0f}" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            f'font-family="system-ui, sans-serif" font-size="12" fill="{COLOURS["ink"]}">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n'
            f'<text x="{MARGIN}" y="30" font-size="17" font-weight="600">{title}</text>\n'
            f'<text x="{MARGIN}" y="49" fill="{COLOURS["faint"]}">{about}</text>\n'
            f"{body}\n</svg>\n"
        )

    # --- placing ---

    def _place(self) -> None:
        top = [node for node in self.children[INTERNET] if isinstance(node, Host)]
        below = [node for node in self.children[INTERNET] if isinstance(node, Router)]
        columns = max(1, min(len(top), 2 * COLUMNS))
        rows = -(-len(top) // columns)
        sizes = [self._size(router) for router in below]
        inner = max(
            _row_width(min(columns, len(top))),
            sum(width for width, _ in sizes) + SITE_GAP * max(0, len(sizes) - 1),
            LEGEND_W,
            6.2 * max(len(" ".join(self.scenario.about.split())), 1),
        )
        self.width = inner + 2 * MARGIN
        for index, node in enumerate(top):
            row, column = divmod(index, columns)
            in_row = min(columns, len(top) - row * columns)
            left = MARGIN + (inner - _row_width(in_row)) / 2
            x = left + column * (BOX_W + GAP_X)
            self.boxes[node.name] = _Box(node, x, HEAD_H + row * (BOX_H + GAP_Y), up=False)
        top_height = rows * (BOX_H + GAP_Y) + LINK_H - GAP_Y if rows else 0
        self.bar_y = HEAD_H + top_height
        total = sum(width for width, _ in sizes) + SITE_GAP * max(0, len(sizes) - 1)
        x = MARGIN + (inner - total) / 2
        for router, (width, _) in zip(below, sizes, strict=True):
            self._place_router(router, x, self.bar_y + BAR_H + LINK_H)
            x += width + SITE_GAP
        deepest = max((height for _, height in sizes), default=0.0)
        legend = 34 if self.report is not None else 0
        under = LINK_H + deepest if sizes else 0
        self.height = self.bar_y + BAR_H + under + MARGIN + legend

    def _hosts(self, router: str) -> list[Node]:
        return [node for node in self.children[router] if isinstance(node, Host)]

    def _routers(self, router: str) -> list[Router]:
        return [node for node in self.children[router] if isinstance(node, Router)]

    def _size(self, router: Router) -> tuple[float, float]:
        """Width and height of all that hangs on a router, itself included."""
        heights = [self._size(inner)[1] for inner in self._routers(router.name)]
        hosts = self._hosts(router.name)
        if hosts:
            rows = -(-len(hosts) // COLUMNS)
            heights.append(rows * (BOX_H + GAP_Y) - GAP_Y)
        inside = LINK_H + max(heights) if heights else 0
        return max(self._inner_width(router), BOX_W + 2 * GAP_X), BOX_H + inside

    def _inner_width(self, router: Router) -> float:
        """Width of what is behind a router."""
        widths = [self._size(inner)[0] for inner in self._routers(router.name)]
        hosts = self._hosts(router.name)
        if hosts:
            widths.append(_row_width(min(COLUMNS, len(hosts))))
        return sum(widths) + GAP_X * max(0, len(widths) - 1)

    def _place_router(self, router: Router, x: float, y: float) -> None:
        width, _ = self._size(router)
        x += (width - self._inner_width(router)) / 2
        width = self._inner_width(router)
        self.boxes[router.name] = _Box(router, x + (width - BOX_W) / 2, y, up=True)
        hosts = self._hosts(router.name)
        row_y = y + BOX_H + LINK_H
        for index, node in enumerate(hosts):
            row, column = divmod(index, COLUMNS)
            at = (x + column * (BOX_W + GAP_X), row_y + row * (BOX_H + GAP_Y))
            self.boxes[node.name] = _Box(node, *at, up=True)
        if hosts:
            x += _row_width(min(COLUMNS, len(hosts))) + GAP_X
        for inner in self._routers(router.name):
            self._place_router(inner, x, row_y)
            x += self._size(inner)[0] + GAP_X

    # --- drawing ---

    def _bar(self) -> str:
        y = self.bar_y
        families = "IPv4 and IPv6" if self.scenario.ipv6 else "IPv4"
        return (
            f'<rect x="{MARGIN}" y="{y:.1f}" width="{self.width - 2 * MARGIN:.1f}" '
            f'height="{BAR_H}" rx="{BAR_H / 2}" fill="{COLOURS["internet"]}"/>\n'
            f'<text x="{self.width / 2:.1f}" y="{y + BAR_H / 2 + 5:.1f}" text-anchor="middle" '
            f'font-size="14">internet <tspan fill="{COLOURS["faint"]}">({families})</tspan></text>'
        )

    def _anchor(self, parent: str, child: _Box, x: float) -> tuple[float, float]:
        """Where a node's link ends at what it is behind."""
        if parent == INTERNET:
            return x, self.bar_y + (BAR_H if child.up else 0)
        box = self.boxes[parent]
        return box.middle, box.y + BOX_H

    def _links(self) -> Iterator[str]:
        for box in self.boxes.values():
            node = box.node
            yield from self._line(box, node.behind, node.link, standby=False)
            if isinstance(node, Host) and node.standby is not None:
                yield from self._line(box, node.standby, node.standby_link, standby=True)

    def _line(self, box: _Box, parent: str, link: Link, *, standby: bool) -> Iterator[str]:
        node = box.node
        x, y = box.port
        has_two = isinstance(node, Host) and node.standby is not None
        # Two attachments stand beside each other, their labels to the left and to the right.
        x += (BOX_W / 5 if standby else -BOX_W / 5) if has_two else 0
        to_x, to_y = self._anchor(parent, box, x)
        yield _stroke(_route(box, (x, y), (to_x, to_y)), dashed=standby)
        on_left = has_two and not standby
        lines = link_label(link)
        for number, text in enumerate(lines):
            below = y - 8 - 13 * (len(lines) - 1 - number) if box.up else y + 16 + 13 * number
            yield (
                f'<text x="{x + (-5 if on_left else 5):.1f}" y="{below:.1f}" font-size="10" '
                f'text-anchor="{"end" if on_left else "start"}" fill="{COLOURS["faint"]}">'
                f"{escape(text)}</text>"
            )

    def _nodes(self) -> Iterator[str]:
        for box in self.boxes.values():
            node = box.node
            if isinstance(node, Router):
                look, under = "router", nat_label(node.nat)
            elif node.name in self.relays:
                look, under = "relay", "relay"
            else:
                look, under = "host", ", ".join(self.programs.get(node.name, ()))
            fill, edge = COLOURS[look], COLOURS[f"{look}-edge"]
            corner = 4 if look == "router" else 10
            yield (
                f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{BOX_W}" height="{BOX_H}" '
                f'rx="{corner}" fill="{fill}" stroke="{edge}" stroke-width="1.4"/>'
            )
            yield _centred(box.middle, box.y + 19, node.name, 12, COLOURS["ink"], "600")
            yield _centred(box.middle, box.y + 35, under, 10, COLOURS["faint"], "400")

    def _paths(self) -> Iterator[str]:
        if self.report is None:
            return
        for path in self.report.paths:
            yield from self._path(path.source, path.target, path.kind)
        succeeded = {outcome.program for outcome in self.report.outcomes if outcome.ok}
        for program in self.scenario.programs:
            if isinstance(program, FetchProgram) and program.name in succeeded:
                yield from self._path(program.name, program.source, FETCHED)
        yield from self._legend()

    def _path(self, source: str, target: str, kind: str) -> Iterator[str]:
        one, two = self.hosts.get(source), self.hosts.get(target)
        if one is None or two is None or one == two:
            return
        look = kind if kind in (RELAYED, FETCHED) else "direct"
        title = escape(f"{source} – {target}: {kind}")
        yield (
            f'<path d="{_curve(self.boxes[one], self.boxes[two])}" fill="none" '
            f'stroke="{COLOURS[look]}" stroke-width="2" opacity="0.7"{DASHES[look]}>'
            f"<title>{title}</title></path>"
        )

    def _legend(self) -> Iterator[str]:
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
            x += 190


def _route(box: _Box, start: tuple[float, float], end: tuple[float, float]) -> str:
    """The way of a link: up, along a bus above the first row, and up again."""
    (x1, y1), (x2, y2) = start, end
    if abs(y1 - y2) <= LINK_H + 1:
        return f"M{x1:.1f} {y1:.1f} V{(y1 + y2) / 2:.1f} H{x2:.1f} V{y2:.1f}"
    # From a row further away, between the columns.
    side = box.x - GAP_X / 2
    if not box.up:
        return f"M{x1:.1f} {y1:.1f} V{y1 + GAP_Y / 2:.1f} H{side:.1f} V{y2:.1f}"
    return (
        f"M{x1:.1f} {y1:.1f} V{y1 - GAP_Y / 2:.1f} H{side:.1f} "
        f"V{y2 + LINK_H / 2:.1f} H{x2:.1f} V{y2:.1f}"
    )


def _stroke(path: str, *, dashed: bool) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{COLOURS["line"]}" stroke-width="1.6"{dash}/>'


def _row_width(count: int) -> float:
    return count * (BOX_W + GAP_X) - GAP_X if count else 0.0


def _centred(x: float, y: float, text: str, size: int, colour: str, weight: str) -> str:
    room = int(BOX_W / (size * 0.56))
    shown = text if len(text) <= room else f"{text[: room - 1]}…"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="{size}" '
        f'font-weight="{weight}" fill="{colour}">{escape(shown)}'
        f"{f'<title>{escape(text)}</title>' if shown != text else ''}</text>"
    )


def _curve(one: _Box, two: _Box) -> str:
    """From one box to another, bent so that it does not run along the links."""
    x1, y1 = one.middle, one.y + BOX_H / 2
    x2, y2 = two.middle, two.y + BOX_H / 2
    across, down = x2 - x1, y2 - y1
    middle = ((x1 + x2) / 2 - down * 0.12, (y1 + y2) / 2 + across * 0.12)
    return f"M{x1:.1f} {y1:.1f} Q{middle[0]:.1f} {middle[1]:.1f} {x2:.1f} {y2:.1f}"
