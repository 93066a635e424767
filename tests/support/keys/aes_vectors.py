"""The handshake and its AES-256-GCM keys computed once more, straight from the documents.

Nothing here is of the code that it checks: the steps of Noise XX (revision 34, sections 5 and 7.5)
are written out one after the other, with the primitives of `cryptography` and its HKDF, and so is
the derivation of docs/security.md. Run as a script to print the vectors as JSON:

    python tests/support/keys/aes_vectors.py >tests/unit/nat/secure/aes_256_gcm_vectors.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

PROTOCOL = b"Noise_XX_25519_ChaChaPoly_SHA256"
REKEY_AFTER = 2**22
RECORDS = ("", "00", "6c617474696361", "ff" * 200)
"""Plaintexts of the first messages of the transport phase, in hexadecimal."""


@dataclass(frozen=True)
class Side:
    """The fixed keys of one peer, all made from one byte."""

    seed: int

    @property
    def identity(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(bytes([self.seed]) * 32)

    @property
    def static(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(bytes([self.seed + 1]) * 32)

    @property
    def ephemeral(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(bytes([self.seed + 2]) * 32)

    @property
    def static_public(self) -> bytes:
        return self.static.public_key().public_bytes_raw()

    @property
    def ephemeral_public(self) -> bytes:
        return self.ephemeral.public_key().public_bytes_raw()

    def payload(self) -> bytes:
        """NoiseHandshakePayload, field by field, with the offer of AES-256-GCM."""
        key = b"\x08\x01\x12\x20" + self.identity.public_key().public_bytes_raw()
        signature = self.identity.sign(b"noise-libp2p-static-key:" + self.static_public)
        # Extensions (field 4): field 2510, packed, one number: 1. Its tag is 2510 << 3 | 2.
        extensions = b"\xf2\x9c\x01" + b"\x01" + b"\x01"
        return b"\x0a\x24" + key + b"\x12\x40" + signature + b"\x22\x05" + extensions


def dh(private: X25519PrivateKey, public: bytes) -> bytes:
    return private.exchange(X25519PublicKey.from_public_bytes(public))


def mix_key(ck: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Noise's HKDF with two outputs is that of RFC 5869 with no info and 64 bytes."""
    out = HKDF(SHA256(), 64, salt=ck, info=b"").derive(secret)
    return out[:32], out[32:]


def chacha(key: bytes, count: int, data: bytes, ad: bytes) -> bytes:
    nonce = bytes(4) + count.to_bytes(8, "little")
    return ChaCha20Poly1305(key).encrypt(nonce, data, ad)


def aes(key: bytes, count: int, data: bytes) -> bytes:
    return AESGCM(key).encrypt(bytes(4) + count.to_bytes(8, "big"), data, b"")


def records_of(key: bytes) -> dict[str, object]:
    """What one direction sends under its first key and, after 2**22 messages, its second."""
    second = aes(key, 2**64 - 1, bytes(32))[:32]
    return {
        "key": key.hex(),
        "records": [
            {"n": n, "plaintext": plain, "ciphertext": aes(key, n, bytes.fromhex(plain)).hex()}
            for n, plain in enumerate(RECORDS)
        ],
        "rekeyed": second.hex(),
        "records_after_rekey": [
            {"n": n, "plaintext": "00", "ciphertext": aes(second, n, b"\x00").hex()}
            for n in (REKEY_AFTER, REKEY_AFTER + 1)
        ],
    }


def vectors() -> dict[str, object]:
    initiator, responder = Side(0x10), Side(0x20)
    # -> e
    h = sha256(PROTOCOL + b"").digest()  # no prologue
    first = initiator.ephemeral_public
    h = sha256(h + first).digest()
    h = sha256(h + b"").digest()  # its empty payload
    # <- e, ee, s, es
    second = responder.ephemeral_public
    h = sha256(h + second).digest()
    ck, k = mix_key(PROTOCOL, dh(responder.ephemeral, first))
    sealed = chacha(k, 0, responder.static_public, h)
    h = sha256(h + sealed).digest()
    second += sealed
    ck, k = mix_key(ck, dh(responder.static, first))
    sealed = chacha(k, 0, responder.payload(), h)
    h = sha256(h + sealed).digest()
    second += sealed
    # -> s, se
    third = chacha(k, 1, initiator.static_public, h)
    h = sha256(h + third).digest()
    ck, k = mix_key(ck, dh(initiator.static, responder.ephemeral_public))
    sealed = chacha(k, 0, initiator.payload(), h)
    h = sha256(h + sealed).digest()
    third += sealed

    keys = {
        sender: HKDFExpand(
            SHA256(), 32, b"lattica-noise/1 aes-256-gcm " + sender.encode() + b" " + h
        ).derive(ck)
        for sender in ("initiator", "responder")
    }
    split = HKDF(SHA256(), 64, salt=ck, info=b"").derive(b"")
    return {
        "protocol": PROTOCOL.decode(),
        **{
            name: {
                "static": side.static.private_bytes_raw().hex(),
                "ephemeral": side.ephemeral.private_bytes_raw().hex(),
                "payload": side.payload().hex(),
            }
            for name, side in (("initiator", initiator), ("responder", responder))
        },
        "messages": [first.hex(), second.hex(), third.hex()],
        "chaining_key": ck.hex(),
        "transcript_hash": h.hex(),
        "split": [split[:32].hex(), split[32:].hex()],
        "from_initiator": records_of(keys["initiator"]),
        "from_responder": records_of(keys["responder"]),
    }


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=2))
