"""Every exception Lattica raises on purpose, under the name that users know.

:mod:`lattica.nat.base.errors`, :mod:`lattica.content.errors`, :mod:`lattica.dht.errors` and
:mod:`lattica.daemon.errors` say what each means, and whose fault it is.
"""

from lattica.content.errors import (
    ContentError,
    ContentNotFoundError,
    IntegrityError,
    SignatureError,
    StorageError,
    TicketError,
)
from lattica.daemon.errors import CannotCrossError, DaemonError, ProcessEndedError
from lattica.dht.errors import DhtError, NoDhtPeersError, NotStoredError
from lattica.nat.base.errors import (
    AccessDeniedError,
    AddressError,
    ConfigError,
    ConnectionClosedError,
    DialAttempt,
    DialError,
    IdentityError,
    IncompleteReadError,
    KeyInUseError,
    LatticaError,
    ListenError,
    LocalProtocolError,
    NotConnectedError,
    PeerLimitError,
    PeerMismatchError,
    RemoteProtocolError,
    ResourceLimitError,
    StreamClosedError,
    StreamResetError,
    UnsupportedProtocolError,
)

__all__ = [
    "AccessDeniedError",
    "AddressError",
    "CannotCrossError",
    "ConfigError",
    "ConnectionClosedError",
    "ContentError",
    "ContentNotFoundError",
    "DaemonError",
    "DhtError",
    "DialAttempt",
    "DialError",
    "IdentityError",
    "IncompleteReadError",
    "IntegrityError",
    "KeyInUseError",
    "LatticaError",
    "ListenError",
    "LocalProtocolError",
    "NoDhtPeersError",
    "NotConnectedError",
    "NotStoredError",
    "PeerLimitError",
    "PeerMismatchError",
    "ProcessEndedError",
    "RemoteProtocolError",
    "ResourceLimitError",
    "SignatureError",
    "StorageError",
    "StreamClosedError",
    "StreamResetError",
    "TicketError",
    "UnsupportedProtocolError",
]
