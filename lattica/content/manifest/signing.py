"""Manifests that their publisher has signed. Pure.

What is signed is the content id of the manifest as it is without the signature, in an envelope of a
domain of its own. The signature is part of the manifest, hence of its content id: it travels with
it and cannot be taken away from it, whoever it is had from.
"""

from __future__ import annotations

from dataclasses import replace

from lattica.content.errors import SignatureError
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import SIGNATURE_DOMAIN, SIGNATURE_TYPE, encode_manifest
from lattica.content.manifest.manifest import Manifest
from lattica.nat.base.keys.envelope import seal_envelope
from lattica.nat.base.keys.identity import Identity, PeerId


def sign_manifest(manifest: Manifest, identity: Identity) -> Manifest:
    """The manifest with a signature of this peer's. Raises :class:`~lattica.errors.ContentError`
    for one that cannot be published."""
    plain = replace(manifest, signature=b"", signer=None)
    digest = bytes(Cid.of(encode_manifest(plain)))
    envelope = seal_envelope(identity, SIGNATURE_DOMAIN, SIGNATURE_TYPE, digest)
    return replace(plain, signature=envelope, signer=identity.peer_id)


def check_signer(manifest: Manifest, cid: Cid, wanted: PeerId) -> None:
    """Raise :class:`~lattica.errors.SignatureError` if it is not this peer who has signed."""
    if manifest.signer == wanted:
        return
    signer = "nobody" if manifest.signer is None else f"peer {manifest.signer}"
    raise SignatureError(
        f"{cid} is signed by {signer}, and not by {wanted}; nothing of it was fetched"
    )
