"""Target of ports: what opens a connection, and what answers it."""

from __future__ import annotations

from lattica.errors import RemoteProtocolError
from lattica.rpc.ports.messages import (
    Answer,
    Code,
    Request,
    Wanted,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)
from tools.fuzz.target import Target, Violation
from tools.fuzz.targets.pieces import option


def _messages(data: bytes) -> None:
    which, data = option(data)
    if which % 2:
        request = decode_request(data)
        if encode_request(request) != data:
            raise Violation(f"{data!r} is {request}, which encodes otherwise")
    else:
        answer = decode_answer(data)
        if len(answer.text) <= 100 and encode_answer(answer) != data:
            raise Violation(f"{data!r} is {answer}, which encodes otherwise")


PORTS = Target(
    "ports",
    _messages,
    (RemoteProtocolError,),
    seeds=[
        b"\x01" + encode_request(Request("8000")),
        b"\x01" + encode_request(Request("web", b"k" * 32, Wanted.CHECK)),
        b"\x00" + encode_answer(Answer(Code.OK)),
        b"\x00" + encode_answer(Answer(Code.BUSY, "there are too many")),
    ],
    max_size=1024,
)
