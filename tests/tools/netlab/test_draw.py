"""Pictures: well-formed SVG in which everything has a place of its own."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tools.netlab.draw.draw import COLOURS, picture
from tools.netlab.draw.layout import BOX_H, BOX_W, CHAR_W, link_label, nat_label
from tools.netlab.runs import chaos
from tools.netlab.runs.mesh import Path
from tools.netlab.runs.report import Outcome, Report
from tools.netlab.spec.link import BurstLoss, LinkSpec
from tools.netlab.spec.model import Scenario
from tools.netlab.spec.nat import NAMES, NatSpec
from tools.netlab.spec.scenario import load, shipped
from tools.netlab.spec.topology import Host, Link

SVG = "{http://www.w3.org/2000/svg}"


def boxes(root):
    found = []
    for element in root.iter(f"{SVG}rect"):
        if element.get("width") == str(BOX_W):
            found.append((float(element.get("x", "")), float(element.get("y", ""))))
    return found


def texts(root):
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("name", shipped())
def test_every_node_has_a_box_inside_the_picture_that_overlaps_no_other(name):
    scenario = load(shipped()[name])
    root = ElementTree.fromstring(picture(scenario))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    placed = boxes(root)
    assert len(placed) == len(scenario.nodes)
    for x, y in placed:
        assert 0 <= x <= width - BOX_W
        assert 0 <= y <= height - BOX_H
    for index, (x, y) in enumerate(placed):
        for other_x, other_y in placed[:index]:
            assert abs(x - other_x) >= BOX_W or abs(y - other_y) >= BOX_H
    for node in scenario.nodes:
        assert any(text.startswith(node.name) for text in texts(root))


@pytest.mark.parametrize("seed", range(5))
def test_a_random_mesh_can_be_drawn(seed):
    scenario = chaos.mesh(seed, 1, 40)
    assert len(boxes(ElementTree.fromstring(picture(scenario)))) == len(scenario.nodes)


def test_text_is_text():
    scenario = Scenario("x", about='<script>&"', hosts=(Host("a"),))
    root = ElementTree.fromstring(picture(scenario))
    assert '<script>&"' in texts(root)


def test_the_paths_of_a_run():
    scenario = load(shipped()["home-to-home"])
    report = Report(
        scenario="home-to-home",
        outcomes=(Outcome("get", "bob", "fetch", True, "identical", 1.0),),
        paths=(
            Path("alice", "bob", "relayed", "/ip4/1.2.3.4/tcp/1/p2p-circuit", 1.0),
            Path("alice", "relay", "direct-tcp", "/ip4/1.2.3.4/tcp/1", 1.0),
            Path("alice", "a stranger", "direct-tcp", "/ip4/1.2.3.4/tcp/1", 1.0),
        ),
        faults=(),
        seconds=1.0,
    )
    root = ElementTree.fromstring(picture(scenario, report))
    titles = {element.text for element in root.iter(f"{SVG}title")}
    assert titles >= {
        "alice – bob: relayed",
        "alice – relay: direct-tcp",
        "get – share: fetched",
    }
    assert "relayed connection" in texts(root)


@pytest.mark.parametrize(
    ("link", "label"),
    [
        (Link(), []),
        (Link(LinkSpec(delay_s=0.01), LinkSpec(delay_s=0.01)), ["10 ms"]),
        (
            Link(LinkSpec(rate_bps=2e6), LinkSpec(rate_bps=1e9, jitter_s=0.001, delay_s=0.02)),
            ["↑ 2 Mbit/s", "↓ 1 Gbit/s, 20±1 ms"],
        ),
        (Link(LinkSpec(loss=0.015)), ["↑ 1.5% loss", "↓ perfect"]),
        (
            Link(LinkSpec(burst=BurstLoss(enter=0.1, leave=0.9), duplicate=0.01)),
            ["↑ 10% loss in bursts, 1% twice", "↓ perfect"],
        ),
    ],
)
def test_what_a_link_is_labelled(link, label):
    assert link_label(link) == label


def test_what_a_nat_is_labelled():
    assert nat_label(NAMES["cgnat"]) == "cgnat"
    assert nat_label(NatSpec(mapping="address-dependent")) == "ADM / APDF / preserving"


@pytest.mark.parametrize("seed", range(5))
def test_what_is_written_on_links_is_inside_the_picture(seed):
    root = ElementTree.fromstring(picture(chaos.mesh(seed, 1, 9)))
    width = float(root.get("width", ""))
    labels = [text for text in root.iter(f"{SVG}text") if text.get("text-anchor") == "start"]
    assert labels
    for label in labels:
        assert float(label.get("x", "")) + CHAR_W * len(label.text or "") < width


def test_the_program_that_failed_is_marked():
    scenario = load(shipped()["home-to-home"])
    outcome = Outcome("get", "bob", "fetch", False, "no", 1.0)
    report = Report("home-to-home", (outcome,), (), (), 1.0)
    root = ElementTree.fromstring(picture(scenario, report))
    marked = [
        span.text for span in root.iter(f"{SVG}tspan") if span.get("fill") == COLOURS["failed"]
    ]
    assert marked == ["get"]
