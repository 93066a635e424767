"""Calls to one peer: which plane they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgpack
import trio

from lattica.nat.base.checks import with_type
from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.base.keys.identity import PeerId
from lattica.rpc.client.control import ControlLink
from lattica.rpc.client.data import DataLink
from lattica.rpc.client.retry import RetryBudget
from lattica.rpc.encoding.arrays import address_of, memory_of, same_form
from lattica.rpc.encoding.encoder import Encoded
from lattica.rpc.errors import UnavailableError, error_of
from lattica.rpc.protocol.client_core import ELSEWHERE, Outcome
from lattica.rpc.protocol.frames import MAX_METADATA, NIL, fits_control
from lattica.rpc.protocol.messages import encode_call
from lattica.rpc.services.definition import Kind

if TYPE_CHECKING:
    from lattica.rpc.client.client import Client
    from lattica.rpc.client.options import CallOptions

_pack: Final = msgpack.Packer().pack
_FETCH_PAUSE: Final = 0.2
_LARGE_METHODS: Final = 1024


class Peer:
    """A peer that is called."""

    def __init__(self, client: Client, peer: PeerId) -> None:
        self.id = peer
        self.budget = RetryBudget()
        """What may be tried again of the calls to it."""
        self._client = client
        self._control = ControlLink(client, self)
        self._data = DataLink(client, self)
        self._large: set[bytes] = set()
        """Methods whose last result was too large for the control plane."""

    @property
    def calls(self) -> int:
        """Calls under way."""
        return self._control.calls + self._data.calls

    async def unary(
        self, method: bytes, arguments: Encoded, deadline: float, options: CallOptions
    ) -> Any:
        """Make one attempt of a unary call; `method` is packed. Raises RpcError."""
        metadata = NIL if options.metadata is None else pack_metadata(options.metadata)
        out = options.out
        if (
            fits_control(arguments, metadata)
            and out is None
            and method not in self._large
            and options.compression is None
        ):
            call, result = await self._control.call(method, arguments.skeleton, deadline, metadata)
            return result if result is not ELSEWHERE else await self.fetch(method, call, deadline)
        targets = _targets(out)
        body = self._body(method, Kind.UNARY, arguments, deadline, metadata, options)
        memory = [memory_of(each) for each in targets]
        result = await self._data.unary(body, deadline, memory, options.compression)
        return result if out is None else placed(result, out)

    def begin(
        self,
        method: bytes,
        arguments: Encoded,
        deadline: float,
        options: CallOptions,
        ended: Callable[[Outcome], None],
    ) -> Callable[[], None] | None:
        """One attempt of a unary call as :meth:`ControlLink.begin`, if that is where it goes."""
        metadata = NIL if options.metadata is None else pack_metadata(options.metadata)
        if method in self._large or not fits_control(arguments, metadata):
            return None
        return self._control.begin(method, arguments.skeleton, deadline, metadata, ended)

    async def fetch(self, method: bytes, call: int, deadline: float) -> Any:
        """Fetch the result of a call that has run: as often as it takes, for that does no harm."""
        if len(self._large) < _LARGE_METHODS:
            self._large.add(method)
        session = self._control.session
        end = min(deadline, trio.current_time() + self._client.config.resume_window)
        while True:
            try:
                return await self._data.fetch(session, call, deadline, ())
            except UnavailableError as error:
                if trio.current_time() + _FETCH_PAUSE >= end:
                    raise error_of(error.code, error.message) from error
            await trio.sleep(_FETCH_PAUSE)

    def _body(
        self,
        method: bytes,
        kind: Kind,
        arguments: Encoded,
        deadline: float,
        metadata: bytes,
        options: CallOptions,
    ) -> Encoded:
        return encode_call(
            method,
            kind,
            arguments,
            timeout_ms=self._client.milliseconds_until(deadline),
            metadata=metadata,
            compression=NIL if options.compression is None else _pack(options.compression),
        )

    def streamed(
        self,
        method: bytes,
        kind: Kind,
        arguments: Encoded,
        deadline: float,
        options: CallOptions,
    ) -> tuple[DataLink, Encoded]:
        """Where to make a streaming call, and its first message."""
        metadata = NIL if options.metadata is None else pack_metadata(options.metadata)
        return self._data, self._body(method, kind, arguments, deadline, metadata, options)

    def path_changed(self) -> None:
        """New streams take another path now."""
        self._control.path_changed()
        self._data.path_changed()

    def close(self) -> None:
        """End what is not under way any more."""
        self._control.close()
        self._data.close()


def pack_metadata(metadata: Any) -> bytes:
    """Metadata as it travels. Raises LocalProtocolError, TypeError."""
    values = dict(metadata)
    for name in values:
        if type(name) is not str:  # to the server that is a breach, which ends the session
            raise TypeError(f"metadata has names, which are texts; not {with_type(name)}")
    try:
        packed: bytes = _pack(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"metadata cannot be sent: {error}") from None
    if len(packed) > MAX_METADATA:
        raise LocalProtocolError(f"metadata of {len(packed)} bytes, where {MAX_METADATA} may be")
    return packed


def _targets(out: Any) -> Sequence[Any]:
    targets = out if isinstance(out, (list, tuple)) else (out,)
    return [each for each in targets if each is not None]


def placed(result: Any, out: Any) -> Any:
    """The result in the caller's arrays: it was received into them, or is copied now.

    Where there is None in place of an array, that part of the result is as it came. Raises
    TypeError if it has another form.
    """
    if out is None:
        return result
    if isinstance(out, (list, tuple)):
        if isinstance(result, (list, tuple)) and len(result) == len(out):
            return type(result)(map(placed, result, out))
    elif same_form(result, out):
        if address_of(result) != address_of(out):
            (out.detach() if hasattr(out, "detach") else out)[...] = result
        return out
    raise TypeError("the result has another form than out=")
