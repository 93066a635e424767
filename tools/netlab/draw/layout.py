"""Where everything in a picture of a topology has its place. Pure.

The internet is a bar; hosts at it stand above, routers hang below, and under each router its
hosts in rows of up to :data:`COLUMNS`, and beside them the routers behind it. What is written on
links is given room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tools.netlab.spec.link import LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES, NatSpec
from tools.netlab.spec.topology import INTERNET, Host, Link, Node, Router

COLUMNS = 4
BOX_W, BOX_H = 132, 46
GAP_X, GAP_Y = 22, 26
SITE_GAP = 56
LINK_H = 74
"""Room for a link's label between a node and what it is behind."""
MARGIN = 28
BAR_H = 40
CHAR_W = 5.5
"""Of a character of a link's label; most fonts need less."""
LINE_H = 13


@dataclass(frozen=True, slots=True)
class Box:
    """A placed node; `x`, `y` is its upper left corner."""

    node: Node
    x: float
    y: float
    up: bool
    """Its link leaves at its top (or at its bottom: it stands on the internet)."""
    lane: float
    """Left of it, where what comes from a row further away may pass."""
    is_far: bool
    """Another row is between it and what it is behind."""

    @property
    def middle(self) -> float:
        return self.x + BOX_W / 2

    @property
    def edge(self) -> float:
        """Where its links leave."""
        return self.y if self.up else self.y + BOX_H

    def port(self, *, standby: bool) -> tuple[float, float]:
        """Where a link of its begins: of two, one is to the left and one to the right."""
        x = self.middle
        if isinstance(self.node, Host) and self.node.standby is not None:
            x += BOX_W / 5 if standby else -BOX_W / 5
        return x, self.edge


@dataclass(frozen=True, slots=True)
class _Grid:
    """Nodes in rows: how far each reaches from its middle, labels included."""

    nodes: Sequence[Node]
    columns: int
    left: float
    right: float
    gap_y: float

    @classmethod
    def of(cls, nodes: Sequence[Node], columns: int) -> _Grid:
        reach = [_reach(node) for node in nodes]
        lines = max((len(link_label(node.link)) for node in nodes), default=0)
        return cls(
            nodes,
            columns=max(1, min(columns, len(nodes))),
            left=max((left for left, _ in reach), default=0.0),
            right=max((right for _, right in reach), default=0.0),
            gap_y=max(GAP_Y, 10 + LINE_H * lines),
        )

    @property
    def pitch(self) -> float:
        return self.left + self.right + GAP_X

    @property
    def width(self) -> float:
        return self.columns * self.pitch - GAP_X if self.nodes else 0.0

    @property
    def height(self) -> float:
        rows = -(-len(self.nodes) // self.columns)
        return rows * (BOX_H + self.gap_y) - self.gap_y if self.nodes else 0.0

    def boxes(self, x: float, y: float, *, up: bool) -> Iterator[Box]:
        """Up: rows count from the top, and links go there; otherwise they go down."""
        last = (len(self.nodes) - 1) // self.columns
        for index, node in enumerate(self.nodes):
            row, column = divmod(index, self.columns)
            if not up and row == last:
                # In the middle, but in columns: between these pass the links of other rows.
                column += (self.columns - (len(self.nodes) - row * self.columns)) // 2
            start = x + column * self.pitch
            yield Box(
                node,
                start + self.left - BOX_W / 2,
                y + row * (BOX_H + self.gap_y),
                up,
                lane=start - GAP_X / 2,
                is_far=row != (0 if up else last),
            )


@dataclass(frozen=True, slots=True)
class _Extent:
    """Of a router and all that hangs on it, from the router's middle."""

    left: float
    right: float
    height: float
    inside: float
    """From the router's middle to the left edge of what hangs on it."""


class Layout:
    """The places of a scenario's nodes.

    top: the room above all. least_width: of the picture, without its margins.
    """

    def __init__(self, scenario: Scenario, top: float, least_width: float) -> None:
        self.boxes: dict[str, Box] = {}
        self._children: dict[str, list[Node]] = {INTERNET: []}
        for router in scenario.routers:
            self._children[router.name] = []
        for node in scenario.nodes:
            self._children[node.behind].append(node)
        grid = _Grid.of(self._hosts(INTERNET), 2 * COLUMNS)
        below = [(router, self._extent(router)) for router in self._routers(INTERNET)]
        total = sum(it.left + it.right for _, it in below) + SITE_GAP * max(0, len(below) - 1)
        inner = max(grid.width, total, least_width)
        self.width = inner + 2 * MARGIN
        self._put(grid.boxes(MARGIN + (inner - grid.width) / 2, top, up=False))
        self.bar_y = top + (grid.height + LINK_H if grid.nodes else 0)
        """The upper edge of the internet."""
        x = MARGIN + (inner - total) / 2
        for router, extent in below:
            self._place(router, x + extent.left, self.bar_y + BAR_H + LINK_H)
            x += extent.left + extent.right + SITE_GAP
        deepest = max((extent.height for _, extent in below), default=0.0)
        self.height = self.bar_y + BAR_H + (LINK_H + deepest if below else 0) + MARGIN

    def _hosts(self, router: str) -> list[Node]:
        return [node for node in self._children[router] if isinstance(node, Host)]

    def _routers(self, router: str) -> list[Router]:
        return [node for node in self._children[router] if isinstance(node, Router)]

    def _put(self, boxes: Iterable[Box]) -> None:
        for box in boxes:
            self.boxes[box.node.name] = box

    def _extent(self, router: Router) -> _Extent:
        grid = _Grid.of(self._hosts(router.name), COLUMNS)
        width, height = grid.width, grid.height
        middles = [grid.left, width - grid.right] if grid.nodes else []
        for inner in self._routers(router.name):
            extent = self._extent(inner)
            width += GAP_X if width else 0
            middles.append(width + extent.left)
            width += extent.left + extent.right
            height = max(height, extent.height)
        # In the middle of the boxes; its link's label is to its right.
        inside = (min(middles) + max(middles)) / 2 if middles else 0.0
        least = BOX_W / 2 + GAP_X
        return _Extent(
            left=max(inside, least),
            right=max(width - inside, least, _reach(router)[1]),
            height=BOX_H + (LINK_H + height if middles else 0),
            inside=inside,
        )

    def _place(self, router: Router, middle: float, y: float) -> None:
        extent = self._extent(router)
        lane = middle - extent.left - GAP_X / 2
        self._put([Box(router, middle - BOX_W / 2, y, up=True, lane=lane, is_far=False)])
        grid = _Grid.of(self._hosts(router.name), COLUMNS)
        x, row_y = middle - extent.inside, y + BOX_H + LINK_H
        self._put(grid.boxes(x, row_y, up=True))
        x += grid.width + GAP_X if grid.nodes else 0
        for inner in self._routers(router.name):
            of_inner = self._extent(inner)
            self._place(inner, x + of_inner.left, row_y)
            x += of_inner.left + of_inner.right + GAP_X


def _reach(node: Node) -> tuple[float, float]:
    """How far a node and the labels of its links reach to the left and right of its middle."""
    right = _label_width(node.link)
    if not isinstance(node, Host) or node.standby is None:
        return BOX_W / 2, max(BOX_W / 2, right)
    # One label to the left of it, one to the right.
    apart = BOX_W / 5
    return max(BOX_W / 2, apart + right), max(BOX_W / 2, apart + _label_width(node.standby_link))


def _label_width(link: Link) -> float:
    longest = max(map(len, link_label(link)), default=0)
    return 5 + CHAR_W * longest if longest else 0.0


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
    if spec.largest is not None:
        parts.append(f"up to {spec.largest} B")
    return ", ".join(parts)


def _rate(bps: float) -> str:
    for unit, name in ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")):
        if bps >= unit:
            return f"{bps / unit:.4g} {name}"
    return f"{bps:.4g} bit/s"
