"""Which requests of browsers the page answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattica.config import load_config
from lattica.daemon.page.requests import Access, RefusedError, parse_request
from lattica.errors import ConfigError

TOKEN = "00112233445566778899aabbccddeeff"
HOME = Access(4080, None)
AWAY = Access(4080, TOKEN)


def head(*lines: str, target: str = "/", host: str = "127.0.0.1:4080") -> bytes:
    return "\r\n".join((f"GET {target} HTTP/1.1", f"Host: {host}", *lines)).encode()


def status(access: Access, data: bytes) -> int:
    try:
        return 303 if access.check(parse_request(data)) else 200
    except RefusedError as refused:
        return refused.status


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (head(), 200),
        (head(host="localhost:4080"), 200),
        (head(host="[::1]:4080"), 200),
        # A name of somebody else's that was made to lead here.
        (head(host="evil.example:4080"), 421),
        (head(host="127.0.0.1"), 421),
        (head(host="127.0.0.1:4080.evil.example"), 421),
        (b"GET / HTTP/1.1", 421),
        (head("Origin: http://127.0.0.1:4080"), 200),
        (head("Origin: http://evil.example"), 403),
        (head("Origin: null"), 403),
        (head("Sec-Fetch-Site: cross-site", target="/status"), 403),
        (head("Sec-Fetch-Site: cross-site"), 200),
        (head("Host: 127.0.0.1:4080"), 400),
        (head(target="http://evil.example/"), 400),
        (head("X : y"), 400),
        (b"POST / HTTP/1.1\r\nHost: 127.0.0.1:4080", 405),
        (b"GET / HTTP/3", 400),
        (b"GET /", 400),
        (b"\xff", 400),
    ],
)
def test_on_loopback(data: bytes, expected: int) -> None:
    assert status(HOME, data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (head(host="node.example"), 401),
        (head(host="node.example", target="/?token=wrong"), 401),
        (head(host="node.example", target=f"/?token={TOKEN}"), 303),
        (head(f"Cookie: a=b; lattica-page={TOKEN}", host="node.example"), 200),
        (head("Cookie: lattica-page=", host="node.example"), 401),
        (head(f"Authorization: Bearer {TOKEN}", host="node.example"), 200),
        (head(f"Authorization: Basic {TOKEN}", host="node.example"), 401),
        (head(f"Cookie: lattica-page={TOKEN}", "Origin: http://evil", host="node.example"), 403),
    ],
)
def test_elsewhere_with_a_token(data: bytes, expected: int) -> None:
    assert status(AWAY, data) == expected


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_whatever_comes_is_answered_or_refused(data: bytes) -> None:
    assert status(HOME, b"GET / HTTP/1.1\r\n" + data) in (200, 400, 403, 421)
    assert status(AWAY, data) in (400, 401, 403, 405)


@pytest.mark.parametrize("page", ["4080", "host", "[::1]", "a b:1", "127.0.0.1:http", "::1:80"])
def test_addresses_that_are_none(page: str) -> None:
    with pytest.raises(ConfigError, match=r"node\.page"):
        load_config(environment={}, overrides={"node.page": page})


def test_a_page_elsewhere_needs_a_token_that_cannot_be_guessed() -> None:
    for token in (None, b"short"):
        with pytest.raises(ConfigError, match="page_token"):
            load_config(
                environment={}, overrides={"node.page": "0.0.0.0:80", "node.page_token": token}
            )
    config = load_config(
        environment={}, overrides={"node.page": "[::1]:4080", "node.page_token": None}
    )
    assert config.node.page_at == ("::1", 4080)
