"""Calls as OpenTelemetry spans, which belong together across peers. Needs opentelemetry-api, the
extra `otel`, and in a program that wants to see them an SDK with an exporter of its choice.

The caller's span travels in the call's metadata, as `traceparent` and `tracestate` of W3C's Trace
Context; baggage does not travel: whom one calls need not know it. Names and attributes follow
OpenTelemetry's conventions for RPC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, TracerProvider
from opentelemetry.trace import StatusCode as SpanStatus
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from lattica.nat.base.keys.identity import PeerId
from lattica.rpc.errors import StatusCode

_FIELDS: Final = ("traceparent", "tracestate")
_MAX_FIELD: Final = 512
"""Characters of one of them, as W3C asks for."""
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_SERVERS_FAULT: Final = frozenset(
    {
        StatusCode.UNKNOWN,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.UNIMPLEMENTED,
        StatusCode.INTERNAL,
        StatusCode.UNAVAILABLE,
        StatusCode.DATA_LOSS,
    }
)
"""Codes that are an error of a server; the others are its caller's."""


class CallSpan:
    """The span of a call that is made here; a child of what is current where it is constructed."""

    def __init__(self, tracer: trace.Tracer, method: str, peer: PeerId | None) -> None:
        self._tracer = tracer
        self._method = method
        self._peer = peer
        self._parent = context.get_current()
        self._span: Span | None = None

    def begin(self, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
        """The call begins; its metadata, with the span."""
        attributes = _attributes(self._method, self._peer)
        self._span = self._tracer.start_span(
            self._method, self._parent, SpanKind.CLIENT, attributes
        )
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span, self._parent))
        return {**(metadata or {}), **carrier}

    def end(self, code: int) -> None:
        """The call has ended, if it had begun."""
        if self._span is not None:
            _end(self._span, code, is_error=code != 0)
            self._span = None


class ServedSpan:
    """The span of a call that is served here."""

    __slots__ = ("code",)

    def __init__(self) -> None:
        self.code: int = StatusCode.CANCELLED
        """To be set when it ends."""


class Tracing:
    """Makes spans. `provider`: by default the process's own."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("lattica.rpc", tracer_provider=provider)

    def call(self, method: str, peer: PeerId | None) -> CallSpan:
        """For a call that is about to be made, to `peer` if that is known already."""
        return CallSpan(self._tracer, method, peer)

    @contextmanager
    def served(
        self, method: str, peer: PeerId, metadata: Mapping[str, Any] | None
    ) -> Iterator[ServedSpan]:
        """The block serves a call, and its span is the current one there; a child of the caller's,
        if that has sent one.
        """
        parent = _PROPAGATOR.extract(_carrier(metadata), Context())
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, _attributes(method, peer))
        token = context.attach(trace.set_span_in_context(span, parent))
        served = ServedSpan()
        try:
            yield served
        finally:
            context.detach(token)
            _end(span, served.code, is_error=served.code in _SERVERS_FAULT)


def _carrier(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """What a peer says of its span, as far as it is of the right form."""
    carrier = {}
    for name in _FIELDS if metadata else ():
        value = metadata.get(name) if metadata else None
        if isinstance(value, str) and len(value) <= _MAX_FIELD:
            carrier[name] = value
    return carrier


def _attributes(method: str, peer: PeerId | None) -> dict[str, str]:
    service, _, name = method.rpartition(".")
    attributes = {"rpc.system": "lattica", "rpc.service": service, "rpc.method": name}
    if peer is not None:
        attributes["lattica.peer_id"] = str(peer)
    return attributes


def _end(span: Span, code: int, *, is_error: bool) -> None:
    try:
        name = StatusCode(code).name
    except ValueError:  # a peer's own
        name = StatusCode.UNKNOWN.name
    span.set_attribute("rpc.response.status_code", name)
    if is_error:
        span.set_status(Status(SpanStatus.ERROR, name))
    span.end()
