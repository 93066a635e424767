"""The operator's own service, over real HTTP."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lattica.daemon.access.http import OperatorService
from lattica.daemon.access.policy import Answer, NoAnswerError
from lattica.nat.base.keys.identity import Identity
from lattica.nat.base.net.ip import parse_ip
from lattica.nat.traversal.relay.server.access import Denial, Standing

RELAY, PEER = (Identity.generate().peer_id for _ in range(2))


@contextmanager
def answering(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[tuple]:
    """A server that says this to everybody: its URL, and what it was asked."""
    asked: list[tuple[str | None, dict]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            asked.append((self.headers.get("Authorization"), json.loads(self.rfile.read(length))))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/ask", asked
        finally:
            server.shutdown()
            thread.join()


def service(url: str, secret: str = "hush") -> OperatorService:
    return OperatorService(RELAY, url, secret, lifetime=60.0, timeout=5.0)


async def test_it_is_told_who_asks_and_believed():
    with answering(200, b'{"allow": true, "rate": 7}') as (url, asked):
        answer = await service(url).ask(PEER, parse_ip("192.0.2.1"))
    assert answer == Answer(Standing(False, 7), 60.0)
    question = {"peer": str(PEER), "ip": "192.0.2.1", "relay": str(RELAY)}
    assert asked == [("Bearer hush", question)]


async def test_a_refusal_by_status():
    with answering(403, b"") as (url, asked):
        answer = await service(url, "").ask(PEER, None)
    assert isinstance(answer.verdict, Denial)
    assert asked[0][0] is None


@pytest.mark.parametrize(("status", "body"), [(500, b""), (200, b"no"), (404, b'{"allow": true}')])
async def test_what_is_no_answer(status, body):
    with answering(status, body) as (url, _), pytest.raises(NoAnswerError):
        await service(url).ask(PEER, None)


async def test_the_secret_is_sent_nowhere_else():
    with (
        answering(200, b'{"allow": true}') as (elsewhere, other),
        answering(307, b"", {"Location": elsewhere}) as (url, _),
        pytest.raises(NoAnswerError, match="307"),
    ):
        await service(url).ask(PEER, None)
    assert other == []


async def test_a_service_that_is_not_there():
    with pytest.raises(NoAnswerError, match="cannot be asked"):
        await service("http://127.0.0.1:1/").ask(PEER, None)
