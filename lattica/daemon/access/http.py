"""Asks the operator's own service, over HTTP, whether a peer is to be served.

`POST URL` with a JSON object `{"peer": ID, "ip": ADDRESS or null, "relay": ID}`, and the secret as
`Authorization: Bearer …`. The answer is status 200 with an object in which all is optional but
`allow`: `{"allow": true, "ttl": 300, "stranger": false, "rate": 0, "month": 0, "circuits": 0,
"reason": ""}`. 403 is a refusal, too; anything else is no answer.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request

import trio

from lattica.daemon.access.policy import Answer, NoAnswerError
from lattica.nat.base.keys.identity import PeerId
from lattica.nat.base.net.ip import IpAddress
from lattica.nat.traversal.relay.server.access import Denial, Standing

_LIMIT = 16_384
"""Bytes of an answer."""
_AT_ONCE = 8
"""Questions that are under way; as many as threads that wait for them."""
_WAITING = 256
"""Questions that wait for those; further ones have no answer."""
_SHORTEST, _LONGEST = 1.0, 86_400.0
_LARGEST = 2**63 - 1


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The secret is for the URL that was configured, and for no other."""

    def redirect_request(self, *_: object) -> None:
        return None


class OperatorService:
    """The service at `url`.

    Args:
        secret: empty: none is sent.
        lifetime: seconds that an answer counts which does not say for how long.
        timeout: seconds for an answer.
    """

    def __init__(
        self, relay: PeerId, url: str, secret: str, *, lifetime: float, timeout: float
    ) -> None:
        self._relay = relay
        self._url = url
        self._secret = secret
        self._lifetime = lifetime
        self._timeout = timeout
        self._places = trio.CapacityLimiter(_AT_ONCE)
        self._opener = urllib.request.build_opener(_NoRedirects)

    async def ask(self, peer: PeerId, ip: IpAddress | None) -> Answer:
        """Its answer. Raises NoAnswerError.

        When cancelled, the question that is under way is left to itself.
        """
        if self._places.statistics().tasks_waiting >= _WAITING:
            raise NoAnswerError("too many peers ask at once")
        question = {
            "peer": str(peer),
            "ip": None if ip is None else str(ip),
            "relay": str(self._relay),
        }
        with trio.move_on_after(2 * self._timeout):
            return await trio.to_thread.run_sync(
                self._post, json.dumps(question).encode(), limiter=self._places,
                abandon_on_cancel=True,
            )  # fmt: skip
        raise NoAnswerError("the operator's service does not answer in time")

    def _post(self, body: bytes) -> Answer:
        headers = {"Content-Type": "application/json"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                data = response.read(_LIMIT + 1)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 403:
                    refusal = Denial("the operator's service refuses the peer", "http")
                    return Answer(refusal, self._lifetime)
                raise NoAnswerError(f"the operator's service answers {error.code}") from None
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerError(f"the operator's service cannot be asked: {error}") from None
        return read_answer(data, self._lifetime)


def read_answer(data: bytes, lifetime: float) -> Answer:
    """The answer in the body of a response. Raises NoAnswerError."""
    if len(data) > _LIMIT:
        raise NoAnswerError(f"the operator's service answers with more than {_LIMIT} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("allow"), bool):
        raise NoAnswerError('the operator\'s service answers without "allow": true or false')
    ttl = found.get("ttl", lifetime)
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or ttl != ttl:
        raise NoAnswerError('the operator\'s service answers with a "ttl" that is no number')
    lasts = min(max(_SHORTEST, ttl), _LONGEST)
    if not found["allow"]:
        reason = str(found.get("reason") or "the operator's service refuses the peer")
        return Answer(Denial(f"{reason:.200}", "http"), lasts)
    stranger = found.get("stranger", False)
    if not isinstance(stranger, bool):
        raise NoAnswerError('the operator\'s service answers with a "stranger" that is no flag')
    rate, month, circuits = (_number(found, name) for name in ("rate", "month", "circuits"))
    return Answer(Standing(stranger, rate, month, circuits), lasts)


def _number(found: dict[str, object], name: str) -> int:
    value = found.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise NoAnswerError(f'the operator\'s service answers with a "{name}" that is no number')
    return value
