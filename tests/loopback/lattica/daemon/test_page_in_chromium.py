"""The page of a node in a real browser: what is on it, on a phone, in the dark, by keyboard.

With `LATTICA_SCREENSHOTS=FOLDER` screenshots are left there, to be looked at.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from lattica import Node
from lattica.config import load_config
from lattica.daemon.node.running import member_of
from tests.loopback.lattica.daemon.browser import CHROMIUM, Page, browser

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium"),
    pytest.mark.timeout(300),
]

LIVE = "document.getElementById('state')?.textContent === 'live'"
HOSTILE = "<img src=x onerror=document.title='taken'>"


def config(folder: Path, **overrides: Any) -> Any:
    given = {"listen": ("/ip4/127.0.0.1/tcp/0",), "nat.port_mapping.enabled": False}
    return load_config(environment={}, overrides={**given, "data_dir": folder, **overrides})


async def test_the_page_is_for_people(tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(bytes(3000))
    daemon = config(
        tmp_path / "node",
        **{"node.page": "127.0.0.1:0", "node.api": False, "node.publish": (model,)},
    )
    other = Node(config(tmp_path / "other", listen=()))
    async with Node(daemon) as node, member_of(node) as member, other:
        await other.connect(node.addrs[0])
        await node.wait_connected(other.peer_id, 20)
        with trio.fail_after(60):
            while not [*member.content.publications()]:
                await trio.sleep(0.02)
        logging.getLogger("lattica.test").warning("%s", HOSTILE)
        # In a thread: the node answers meanwhile.
        await trio.to_thread.run_sync(visit, member.page, str(other.peer_id), tmp_path)


def visit(url: str, peer: str, folder: Path) -> None:
    with browser(folder / "profile") as page:
        page.show(url, 390, 844)
        page.wait(LIVE)
        page.wait(f"document.getElementById('peers').textContent.includes('{peer}')")
        page.wait("document.getElementById('serves').textContent.includes('model.bin')")
        on_a_phone(page)
        light = background(page)
        keep(page, "phone")
        by_keyboard(page, peer)
        page.show(url, 1200, 900, scheme="dark")
        page.wait(LIVE)
        dark = background(page)
        assert sum(dark) < 150 < 600 < sum(light)
        assert contrast(dark, text_colour(page)) > 7
        keep(page, "dark")
        the_log_is_live_and_text(page)
        assert page.errors == []


def on_a_phone(page: Page) -> None:
    """Nothing is wider than the screen, but for what scrolls by itself; text is large enough."""
    assert page.value("document.documentElement.scrollWidth") <= 390
    assert page.value("parseFloat(getComputedStyle(document.body).fontSize)") >= 16
    scale = "document.querySelector('svg text').getScreenCTM().a"
    shown = f"parseFloat(getComputedStyle(document.querySelector('svg text')).fontSize) * {scale}"
    assert page.value(shown) > 10
    assert page.value("document.getElementById('uptime').textContent").endswith(", 1 peer")
    sections = page.value(
        "[...document.querySelectorAll('section')].map(s => s.getBoundingClientRect().width)"
    )
    assert len(sections) >= 6
    assert all(300 < width <= 390 for width in sections)
    assert page.value("document.querySelectorAll('#graph a').length") == 1


def by_keyboard(page: Page, peer: str) -> None:
    """The first key leads past the rest to the peers; each peer of the graph can be reached."""
    page.press("Tab")
    assert page.value("document.activeElement.className") == "skip"
    assert page.value("document.activeElement.getBoundingClientRect().left") >= 0  # it is seen
    page.press("Tab")
    assert page.value("document.activeElement.getAttribute('href')") == f"#{peer}"
    # It stays there though the page is drawn anew every second.
    drawn = page.value("document.getElementById('uptime').textContent")
    page.wait(f"document.getElementById('uptime').textContent !== {drawn!r}")
    assert page.value("document.activeElement.getAttribute('href')") == f"#{peer}"
    page.press("Enter")
    page.wait(f"location.hash === '#{peer}'")
    page.press("Tab")  # from the peer's row on
    assert page.value("document.activeElement.id") == "log"


def the_log_is_live_and_text(page: Page) -> None:
    page.wait("document.getElementById('log').textContent.includes('onerror')")
    logging.getLogger("lattica.test").warning("a line that comes later")
    page.wait("document.getElementById('log').textContent.includes('a line that comes later')")
    assert page.value("document.title") == "Lattica node"
    assert page.value("document.querySelectorAll('img').length") == 0


def background(page: Page) -> list[int]:
    return colours(page, "backgroundColor")


def text_colour(page: Page) -> list[int]:
    return colours(page, "color")


def colours(page: Page, name: str) -> list[int]:
    text = page.value(f"getComputedStyle(document.body).{name}")
    return [int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(",")]


def contrast(first: list[int], second: list[int]) -> float:
    """As WCAG 2.2 defines it; 7 is its AAA."""

    def luminance(colour: list[int]) -> float:
        parts = [part / 255 for part in colour]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dim, bright = sorted((luminance(first), luminance(second)))
    return (bright + 0.05) / (dim + 0.05)


def keep(page: Page, name: str) -> None:
    folder = os.environ.get("LATTICA_SCREENSHOTS")
    if folder:
        page.screenshot(Path(folder) / f"{name}.png")
