"""Client and server cores over a network that loses streams at any byte, and servers that restart.

A stream delivers a prefix of what was written on it, in order, whole or cut anywhere; what a
reconnecting client sends again arrives beside what was still on its way. Whatever happens: a call
runs at most once, it has exactly one outcome, an acknowledged one has run, and its answer is its
own.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lattica.rpc.encoding.decoder import Decoder
from lattica.rpc.encoding.registry import TypeRegistry
from lattica.rpc.errors import DeadlineExceededError, UnavailableError
from lattica.rpc.protocol.client_core import ClientCore, Outcome, PendingCall
from lattica.rpc.protocol.frames import encode_error, encode_result, pack_number
from lattica.rpc.protocol.server_core import Hello, Request, ServerCore

METHOD = b"\xa1m"
SESSION = bytes(16)


class Link:
    """A stream: what is on its way each way, and whether each end still hears."""

    def __init__(self) -> None:
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.hello: Hello | None = Hello()
        self.is_cut = False


class Session:
    """What a server knows of one."""

    def __init__(self, core: ServerCore) -> None:
        self.core = core
        self.link: Link | None = None


class Process:
    """A server from start to end: its memory ends with it."""

    def __init__(self) -> None:
        self.sessions: dict[bytes, Session] = {}
        self.waiting: dict[int, Session] = {}


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.decoder = Decoder(TypeRegistry())
        self.client = ClientCore(SESSION, self.decoder, lambda: self.now)
        self.server = Process()
        self.names = 0
        self.link: Link | None = None
        self.old: list[Link] = []
        """Streams that the client has left, and whose last bytes may still reach the server."""
        self.calls: dict[int, PendingCall] = {}
        self.cancelled: set[int] = set()
        self.outcomes: dict[int, Outcome] = {}
        self.executed: list[int] = []
        self.written: set[int] = set()

    # --- the client ---

    @initialize()
    def connect_first(self) -> None:
        self.connect()

    @rule(timeout=st.sampled_from([float("inf"), 1.0, 5.0]))
    def call(self, timeout: float) -> None:
        made = self.client.start(METHOD, b"\x90", deadline=self.now + timeout)
        assert made.id not in self.calls
        self.calls[made.id] = made
        if self.client.is_live:
            self.write(made.frame)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.client.pending:
            call = data.draw(st.sampled_from(sorted(self.client.pending)))
            self.cancelled.add(call)
            self.write(self.client.cancel(self.calls[call]))

    @rule(seconds=st.floats(0.1, 2.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        outcomes, frames = self.client.expire()
        assert all(isinstance(each.error, DeadlineExceededError) for each in outcomes)
        self.end(outcomes)
        self.write(frames)

    @rule()
    def connect(self) -> None:
        """A new stream, because the old one is lost or another path is better."""
        if self.link is not None:
            self.old.append(self.link)
        self.link = Link()
        self.write(self.client.connect())

    @precondition(lambda self: self.link is not None)
    @rule()
    def lose(self) -> None:
        assert self.link is not None
        self.link.to_client.clear()
        self.old.append(self.link)
        self.link = None
        self.client.lose()

    @rule()
    def give_up(self) -> None:
        self.end(self.client.fail_unsent("cannot be reached"))

    def write(self, data: bytes) -> None:
        if self.link is not None:
            self.link.to_server += data

    @precondition(lambda self: self.link is not None and self.link.to_client)
    @rule(share=st.floats(0, 1))
    def deliver_to_client(self, share: float) -> None:
        assert self.link is not None
        size = max(1, int(share * len(self.link.to_client)))
        piece = bytes(self.link.to_client[:size])
        del self.link.to_client[:size]
        outcomes, frames = self.client.receive(piece)
        self.end(outcomes)
        self.write(frames)
        if self.client.is_lost:
            self.renew()

    def renew(self) -> None:
        self.names += 1
        self.client.renew(self.names.to_bytes(16, "big"))
        self.lose()

    def end(self, outcomes: list[Outcome]) -> None:
        for each in outcomes:
            call = each.call.id
            assert call not in self.outcomes, "two outcomes"
            assert call not in self.cancelled, "an outcome of a cancelled call"
            self.outcomes[call] = each
            if each.error is None:
                assert each.value == call, "somebody else's answer"
                assert call in self.executed, "an answer of a call that has not run"
            elif isinstance(each.error, UnavailableError) and not each.error.may_have_run:
                assert call not in self.executed, "said not to have run, and has"

    # --- the server ---

    @precondition(lambda self: self.link is not None or self.old)
    @rule(data=st.data(), share=st.floats(0, 1), cut=st.booleans())
    def deliver_to_server(self, data: st.DataObject, share: float, cut: bool) -> None:
        links = [*self.old, *([self.link] if self.link is not None else [])]
        link = data.draw(st.sampled_from(links))
        size = int(share * len(link.to_server))
        piece = bytes(link.to_server[:size])
        del link.to_server[:size]
        if cut and link is not self.link:
            self.old.remove(link)
        if piece and not link.is_cut:
            self.arrive(link, piece)

    def arrive(self, link: Link, piece: bytes) -> None:
        server = self.server
        if link.hello is not None:
            if not link.hello.feed(piece, self.decoder):
                return
            hello, link.hello = link.hello, None
            assert hello.session is not None
            if hello.session not in server.sessions:
                if (answer := hello.lost) is not None:
                    link.to_client += answer
                    link.is_cut = True
                    return
                core = ServerCore(hello.session, self.decoder)
                server.sessions[hello.session] = Session(core)
            session = server.sessions[hello.session]
            if session.core.is_stale(hello):
                link.is_cut = True
                return
            if session.link is not None:
                session.link.is_cut = True
            session.link = link
            events, greeting = session.core.attach(hello)
            link.to_client += greeting
        else:
            of_link = [each for each in server.sessions.values() if each.link is link]
            if not of_link:
                return
            session = of_link[0]
            events = session.core.receive(piece)
        for event in events:
            if isinstance(event, Request):
                assert event.id not in self.executed, "run twice"
                self.executed.append(event.id)
                server.waiting[event.id] = session
            elif event.id in server.waiting:
                self.answer(event.id, encode_error(event.id, 1, "cancelled", {}))

    @precondition(lambda self: self.server.waiting)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.server.waiting)))
        self.answer(call, encode_result(call, pack_number(call)))

    def answer(self, call: int, frame: bytes) -> None:
        session = self.server.waiting.pop(call)
        written = session.core.answer(call, frame)
        if session.link is not None:
            session.link.to_client += written

    @rule()
    def server_notices_the_loss(self) -> None:
        for session in self.server.sessions.values():
            if session.link is not self.link:
                session.link = None
                session.core.detach()

    @rule()
    def restart(self) -> None:
        """It is killed, and started anew. Every stream to it is lost."""
        self.server = Process()
        for link in self.old:
            link.is_cut = True
        if self.link is not None:
            self.link.is_cut = True
            self.lose()

    # --- always, and in the end ---

    @invariant()
    def every_call_is_somewhere(self) -> None:
        pending = set(self.client.pending)
        ended = set(self.outcomes)
        assert pending | ended | self.cancelled == set(self.calls)
        assert not pending & (ended | self.cancelled)
        assert len(self.executed) == len(set(self.executed))

    def teardown(self) -> None:
        """On a network that works, every call ends."""
        for _ in range(3):
            self.connect()
            while (link := self.link) is not None:
                if link.to_server:
                    piece = bytes(link.to_server)
                    link.to_server.clear()
                    self.arrive(link, piece)
                elif not link.to_client and not self.server.waiting:
                    break
                if link.to_client:
                    self.deliver_to_client(1.0)
                for call in [*self.server.waiting]:
                    self.answer(call, encode_result(call, pack_number(call)))
        assert not self.client.pending
        self.every_call_is_somewhere()


def test_the_answer_of_a_restarted_server_is_lost_too() -> None:
    """The next stream then meets a server that has seen the session, and has not got the call."""
    machine = Machine()
    machine.connect_first()
    machine.call(float("inf"))
    link = machine.link
    assert link is not None
    machine.arrive(link, bytes(link.to_server))
    assert machine.executed == [0]
    machine.restart()
    machine.connect()
    link = machine.link
    assert link is not None
    machine.arrive(link, bytes(link.to_server))
    machine.lose()
    machine.call(float("inf"))
    machine.teardown()
    assert machine.executed == [0, 1]
    lost, other = machine.outcomes[0].error, machine.outcomes[1]
    assert isinstance(lost, UnavailableError)
    assert lost.may_have_run
    assert other.value == 1


TestControlPlane = Machine.TestCase
TestControlPlane.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
