"""Requests of browsers, and which of them are answered. Pure.

HTTP/1.1 (RFC 9112), as much as a page needs that can only be read: one GET or HEAD a connection.

What a page on loopback has to fear are other pages in the same browser: one whose name was made to
lead here (DNS rebinding) shows in `Host`, one that asks from elsewhere in `Origin`.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

MAX_HEAD = 16 * 1024
"""Bytes of a request."""
COOKIE = "lattica-page"
"""What the token is called in the browser."""


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Request:
    """One of them."""

    method: str
    path: str
    """Without the query."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name."""


def parse_request(head: bytes) -> Request:
    """Read what stands before the empty line.

    Raises:
        RefusedError: it is none, or not a GET or HEAD.
    """
    try:
        first, *lines = head.decode("ascii").split("\r\n")
        method, target, version = first.split(" ")
    except ValueError:
        raise RefusedError(400, "Bad Request") from None
    if version not in ("HTTP/1.1", "HTTP/1.0") or not target.startswith("/"):
        raise RefusedError(400, "Bad Request")
    if method not in ("GET", "HEAD"):
        raise RefusedError(405, "Method Not Allowed")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        # Two of a kind, or a space before the colon, mean different things to different readers.
        if not colon or not name or name != name.strip() or name.lower() in headers:
            raise RefusedError(400, "Bad Request")
        headers[name.lower()] = value.strip()
    try:
        parts = urlsplit(target)
        query = {name: each[-1] for name, each in parse_qs(parts.query).items()}
    except ValueError:
        raise RefusedError(400, "Bad Request") from None
    return Request(method, parts.path, query, headers)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may look."""

    port: int
    """Where the page is."""
    token: str | None
    """What a browser has to know; None: nothing, for it is on loopback."""

    def check(self, request: Request) -> bool:
        """Let a request through; whether the browser is to keep the token, which its address has.

        Raises:
            RefusedError: it may not be answered.
        """
        host = request.headers.get("host", "")
        names = ("127.0.0.1", "localhost", "[::1]")
        if self.token is None and host not in {f"{name}:{self.port}" for name in names}:
            raise RefusedError(421, "Misdirected Request")
        origin = request.headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise RefusedError(403, "Forbidden")
        if request.headers.get("sec-fetch-site") == "cross-site" and request.path != "/":
            raise RefusedError(403, "Forbidden")
        if self.token is None:
            return False
        if _is(request.query.get("token", ""), self.token):
            return True
        if not any(_is(given, self.token) for given in _kept(request.headers)):
            raise RefusedError(401, "Unauthorized")
        return False


def _is(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _kept(headers: Mapping[str, str]) -> list[str]:
    """What a browser or a program says of the token."""
    scheme, _, word = headers.get("authorization", "").partition(" ")
    found = [word.strip()] if scheme.lower() == "bearer" else []
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            found.append(value)
    return found
