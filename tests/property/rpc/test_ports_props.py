"""The messages of ports: what is encoded comes back, and all else is refused in one way."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattica.errors import RemoteProtocolError
from lattica.rpc.ports.messages import (
    MAX_ANSWER,
    MAX_KEY,
    MAX_REQUEST,
    Answer,
    Code,
    Request,
    Wanted,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    is_name,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(NAMES, st.binary(max_size=MAX_KEY), st.sampled_from(Wanted))
def test_requests(name: str, key: bytes, wanted: Wanted) -> None:
    request = Request(name, key, wanted)
    data = encode_request(request)
    assert len(data) <= MAX_REQUEST
    assert decode_request(data) == request
    for end in range(2 + len(name)):
        with pytest.raises(RemoteProtocolError):
            decode_request(data[:end])
    with pytest.raises(RemoteProtocolError):
        decode_request(b"\x02" + data[1:])
    with pytest.raises(RemoteProtocolError):
        decode_request(data + bytes(MAX_KEY + 1 - len(key)))


@given(st.text(max_size=1000), st.sampled_from(Code))
def test_answers(text: str, code: Code) -> None:
    data = encode_answer(Answer(code, text))
    assert len(data) <= MAX_ANSWER
    answer = decode_answer(data)
    assert answer.code is code
    assert text.startswith(answer.text)
    assert answer.text == text or len(answer.text.encode()) > MAX_ANSWER - 5
    with pytest.raises(RemoteProtocolError):
        decode_answer(bytes((max(Code) + 1,)) + data[1:])


@given(st.binary(max_size=200))
def test_anything_else_is_the_peers_fault(data: bytes) -> None:
    for decode in (decode_request, decode_answer):
        with suppress(RemoteProtocolError):
            decode(data)


@given(st.text(max_size=70))
def test_names(text: str) -> None:
    assert is_name(text) == (
        0 < len(text) <= 64
        and text.isascii()
        and text[0].isalnum()
        and text.replace(".", "").replace("_", "").replace("-", "").isalnum()
    )
