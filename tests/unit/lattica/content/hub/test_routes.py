"""The hub's routes, and ranges of bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.content.hub.repository import RevisionRef
from lattica.content.hub.routes import (
    FileRoute,
    InfoRoute,
    RangeNotSatisfiableError,
    TreeRoute,
    find_range,
    find_route,
)
from lattica.errors import TicketError

V1 = RevisionRef("org/model", "v1")
PR = RevisionRef("org/model", "refs/pr/1")


@pytest.mark.parametrize(
    ("target", "route"),
    [
        ("/api/models/org/model", InfoRoute(RevisionRef("org/model", "main"))),
        ("/api/models/gpt2", InfoRoute(RevisionRef("gpt2", "main"))),
        ("/api/models/org/model/revision/v1?blobs=True", InfoRoute(V1, True)),
        ("/api/models/org/model/revision/refs%2Fpr%2F1", InfoRoute(PR)),
        ("/api/datasets/o/d/revision/v1", InfoRoute(RevisionRef("datasets/o/d", "v1"))),
        ("/api/models/org/model/tree/v1", TreeRoute(V1)),
        ("/api/models/org/model/tree/v1/a%20b/c?recursive=true", TreeRoute(V1, "a b/c", True)),
        ("/api/models/gpt2/tree/v1", TreeRoute(RevisionRef("gpt2", "v1"))),
        ("/org/model/resolve/v1/a/b%23c.bin", FileRoute(V1, "a/b#c.bin")),
        ("/org/model/resolve/refs%2Fpr%2F1/x", FileRoute(PR, "x")),
        ("/gpt2/resolve/main/config.json", FileRoute(RevisionRef("gpt2"), "config.json")),
        ("/datasets/o/d/resolve/v1/x", FileRoute(RevisionRef("datasets/o/d", "v1"), "x")),
        ("/", None),
        ("/api/whoami-v2", None),
        ("/api/models", None),
        ("/api/models/org/model/commits/v1", None),
        ("/org/model", None),
        ("/org/model/resolve/v1", None),
    ],
)
def test_routes(target, route):
    assert find_route(target) == route


@pytest.mark.parametrize("target", ["/api/models/a%20b", "/..%2f../resolve/main/x", "/api/models/"])
def test_names_that_no_hub_has(target):
    with pytest.raises(TicketError):
        find_route(target)


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_any_target_has_a_route_or_none(target):
    with suppress(TicketError, ValueError):
        find_route("/" + target)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-", (0, 100)),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        (" bytes = 5 - 6 ", (5, 7)),
        ("bytes=-", None),
        ("bytes=9-5", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=" + "9" * 30 + "-", None),
        ("", None),
    ],
)
def test_ranges(header, found):
    assert find_range(header, 100) == found


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=100-", 100), ("bytes=-0", 9), ("bytes=0-", 0)]
)
def test_ranges_beyond_the_end(header, size):
    with pytest.raises(RangeNotSatisfiableError):
        find_range(header, size)
