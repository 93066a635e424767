"""When a STUN request is sent, and which answers count."""

from __future__ import annotations

import pytest

from lattica.errors import ConfigError
from lattica.nat.traversal.stun.codec import BindingError, BindingRequest, BindingResponse, encode
from lattica.nat.traversal.stun.transaction import StunTiming, Transaction

NAME = bytes(12)
SERVER, OTHER = ("192.0.2.1", 3478), ("192.0.2.2", 3479)
ANSWER = BindingResponse(NAME, ("198.51.100.1", 5))


def sent_at(timing: StunTiming) -> tuple[list[float], float]:
    """When requests are sent, and when it is given up."""
    transaction = Transaction(BindingRequest(NAME), SERVER, [SERVER], timing)
    times: list[float] = []
    now = 0.0
    while True:
        datagram = transaction.due(now)
        if transaction.done:
            assert transaction.timed_out
            assert datagram is None
            assert transaction.next_timer is None
            return times, now
        assert datagram == encode(BindingRequest(NAME))
        times.append(now)
        assert transaction.next_timer is not None
        assert transaction.due(transaction.next_timer - 0.001) is None
        now = transaction.next_timer


def test_the_times_of_the_rfc():
    timing = StunTiming(first_wait=0.5, requests=7, last_wait=8.0)
    assert sent_at(timing) == ([0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5], 39.5)
    assert timing.total == 39.5


def test_the_usual_times():
    times, end = sent_at(StunTiming())
    assert times == pytest.approx([0, 0.2, 0.6, 1.4])
    assert end == pytest.approx(3.0)
    assert StunTiming().total == pytest.approx(3.0)


def begun(accept_from=(SERVER,)) -> Transaction:
    transaction = Transaction(BindingRequest(NAME), SERVER, accept_from, StunTiming())
    transaction.due(10.0)
    return transaction


def test_an_answer_ends_it():
    transaction = begun()
    assert transaction.receive(ANSWER, SERVER, 10.5)
    assert (transaction.answer, transaction.answered_by) == (ANSWER, SERVER)
    assert transaction.rtt == 0.5
    assert transaction.done
    assert transaction.next_timer is None
    assert transaction.due(99.0) is None
    assert not transaction.receive(ANSWER, SERVER, 11.0)


def test_the_round_trip_is_unknown_when_it_was_sent_twice():
    transaction = begun()
    transaction.due(10.2)
    assert transaction.receive(ANSWER, SERVER, 10.5)
    assert transaction.rtt is None


@pytest.mark.parametrize(
    ("message", "source"),
    [(ANSWER, OTHER), (ANSWER, (SERVER[0], 1)), (BindingResponse(bytes(11) + b"1", OTHER), SERVER)],
)
def test_what_others_say_is_ignored(message, source):
    transaction = begun()
    assert not transaction.receive(message, source, 10.5)
    assert not transaction.done


def test_an_answer_from_elsewhere():
    transaction = begun([OTHER])
    assert not transaction.receive(ANSWER, SERVER, 10.1)
    assert not transaction.receive(BindingError(NAME, 420), OTHER, 10.1)
    assert transaction.receive(ANSWER, OTHER, 10.2)
    refused = begun([OTHER])
    assert refused.receive(BindingError(NAME, 420), SERVER, 10.1)


def test_nothing_is_an_answer_before_it_was_asked():
    transaction = Transaction(BindingRequest(NAME), SERVER, [SERVER], StunTiming())
    assert not transaction.receive(ANSWER, SERVER, 0.0)


@pytest.mark.parametrize(
    "fields", [{"first_wait": 0}, {"requests": 0}, {"last_wait": float("inf")}]
)
def test_times_are_checked(fields):
    with pytest.raises(ConfigError):
        StunTiming(**fields)
