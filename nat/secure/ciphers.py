"""What encrypts the transport phase of a connection, and how two peers agree on it.

Every libp2p peer has ChaChaPoly, the cipher of the handshake itself. On a processor that computes
AES, AES-256-GCM is two to three times as fast, so two peers that both offer it use it. The offers
are in the payloads of handshake messages 2 and 3, encrypted and authenticated, and the choice is a
function of both (:func:`agree`): it takes no round trip, and whoever changes an offer on its way
spoils the handshake.

The keys are made anew from the handshake's secrets, so that none is ever used with two ciphers. By
HKDF-Expand of RFC 5869 with SHA-256, from the chaining key `ck` and the transcript hash `h` at the
end of the handshake (Noise Protocol Framework, revision 34, sections 5.2 and 11.2)::

    key(sender) = HKDF-Expand(ck, "lattica-noise/1 aes-256-gcm " || sender || " " || h, 32)

where `sender` is "initiator" or "responder", whoever encrypts with the key. Noise's own Split makes
its keys from `ck` by an empty input, and they say nothing about these.

Nonces count messages as section 12 has it for AESGCM: 4 zero bytes, then 64 bits, big-endian. After
:data:`AES_GCM_MESSAGES` messages a key is replaced by Rekey of section 4.2, and the count goes on.
"""

from __future__ import annotations

import hmac
import platform
import struct
from collections.abc import Set as AbstractSet
from enum import Enum
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lattica.nat.base.errors import LocalProtocolError
from lattica.nat.secure.noise import KEY_SIZE, CipherState, XXHandshake

AES_GCM_MESSAGES = 2**22
"""Messages that are encrypted under one key.

At their largest 2**34 blocks, where TLS 1.3 stops at 2**34.5 for a margin of 2**-57 (RFC 8446,
section 5.5).
"""

_LABEL = b"lattica-noise/1 aes-256-gcm "
_CPUINFO = Path("/proc/cpuinfo")
_CPU_FEATURES = {"flags": {"aes", "pclmulqdq"}, "Features": {"aes", "pmull"}}
"""The line of x86 and that of ARM, and what has to be in it: AES, and GHASH's multiplication."""
_pack_nonce = struct.Struct(">4xQ").pack
_REKEY_NONCE = _pack_nonce(2**64 - 1)


class Cipher(Enum):
    """An AEAD of the transport phase."""

    CHACHA20_POLY1305 = "chacha20-poly1305"
    AES_256_GCM = "aes-256-gcm"


def offered(setting: str) -> frozenset[Cipher]:
    """What a node offers besides ChaChaPoly, by its setting (`SwarmConfig.cipher`)."""
    aes = setting == "aes-256-gcm" or (setting == "auto" and has_aes_hardware())
    return frozenset({Cipher.AES_256_GCM}) if aes else frozenset()


def agree(ours: AbstractSet[Cipher], theirs: AbstractSet[Cipher]) -> Cipher:
    """The cipher of a connection between peers with these offers; the same on both sides."""
    if Cipher.AES_256_GCM in ours and Cipher.AES_256_GCM in theirs:
        return Cipher.AES_256_GCM
    return Cipher.CHACHA20_POLY1305


def transport_states(handshake: XXHandshake, cipher: Cipher) -> tuple[CipherState, CipherState]:
    """Return the (sending, receiving) states of the transport phase under `cipher`.

    Raises:
        LocalProtocolError: the handshake is not done.
    """
    if cipher is Cipher.CHACHA20_POLY1305:
        return handshake.split()
    if not handshake.done:
        raise LocalProtocolError("noise: the handshake is not done")
    of_initiator, of_responder = (
        AesGcmState(_expand(handshake, sender)) for sender in (b"initiator", b"responder")
    )
    if handshake.initiator:
        return of_initiator, of_responder
    return of_responder, of_initiator


def _expand(handshake: XXHandshake, sender: bytes) -> bytes:
    # One block of HKDF-Expand is all there is: 32 bytes are SHA-256's size.
    info = _LABEL + sender + b" " + handshake.transcript_hash
    return hmac.digest(handshake.chaining_key, info + b"\x01", "sha256")


class AesGcmState(CipherState):
    """A key of AES-256-GCM and its message counter."""

    __slots__ = ("_rekey_at",)

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._nonce = 0
        self._rekey_at = AES_GCM_MESSAGES

    def _next_nonce(self) -> bytes:
        count = self._nonce
        if count == self._rekey_at:
            self._aead = AESGCM(self._aead.encrypt(_REKEY_NONCE, bytes(KEY_SIZE), None)[:KEY_SIZE])
            self._rekey_at += AES_GCM_MESSAGES
        self._nonce = count + 1
        return _pack_nonce(count)


@cache
def has_aes_hardware() -> bool:
    """Whether this processor computes AES-GCM itself.

    Where that is not known the answer is no: in software AES is slower than ChaChaPoly, and
    harder to keep from telling its key by its timing.
    """
    return _has_aes_hardware(platform.system(), platform.machine(), _CPUINFO)


def _has_aes_hardware(system: str, machine: str, cpuinfo: Path) -> bool:
    if system == "Darwin":
        return machine in ("arm64", "x86_64")  # every Mac that a current Python runs on
    try:
        with cpuinfo.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                name, _, features = line.partition(":")
                if (needed := _CPU_FEATURES.get(name.strip())) is not None:
                    return needed <= set(features.split())
    except OSError:
        pass  # another system
    return False
