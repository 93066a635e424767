"""What waits to be sent to a peer."""

from __future__ import annotations

from lattica.content.bitswap.messages import Message, Want
from lattica.content.bitswap.outbox import Outbox

WANT, CANCEL = Want(b"x"), Want(b"x", cancel=True)


async def test_the_last_state_of_a_want_counts():
    outbox = Outbox()
    outbox.ask(Message(wants=(WANT, Want(b"y"))))
    outbox.ask(Message(wants=(CANCEL,)))  # it had not gone: the peer need not know
    assert await outbox.take() == Message(wants=(Want(b"y"),))
    assert not outbox


async def test_a_want_that_is_sent_anew_goes_after_its_cancel_and_not_with_it():
    outbox = Outbox()
    for want in (CANCEL, WANT, CANCEL, WANT):
        outbox.ask(Message(wants=(want,)))
    assert await outbox.take() == Message(wants=(CANCEL,))
    assert await outbox.take() == Message(wants=(WANT,))
    assert not outbox
