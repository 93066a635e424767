"""Signed manifests: who has to have signed is believed, and nobody else."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest

from lattica.content import FetchOptions, Publisher, fetch, stream_tensors
from lattica.content.manifest.cid import Cid
from lattica.content.manifest.codec import decode_manifest, encode_manifest
from lattica.content.manifest.signing import sign_manifest
from lattica.content.publish.catalog import make_publication
from lattica.errors import ConfigError, RemoteProtocolError, SignatureError
from lattica.nat.base.keys.identity import Identity
from tests.support.doubles.memory_host import memory_net

ME, OTHER = Identity.generate(), Identity.generate()


def by(identity: Identity) -> FetchOptions:
    return FetchOptions(signed_by=identity.peer_id, first_delay=0.01)


async def manifest_of(tmp_path, data=b"data"):
    (tmp_path / "f").write_bytes(data)
    return (await make_publication(tmp_path / "f")).manifest


async def test_a_signature_is_part_of_the_manifest_and_tells_who(tmp_path):
    plain = await manifest_of(tmp_path)
    assert plain.signer is None
    signed = sign_manifest(plain, ME)
    assert sign_manifest(signed, ME) == signed
    data = encode_manifest(signed)
    assert decode_manifest(data) == signed
    assert decode_manifest(data).signer == ME.peer_id
    assert data == (await make_publication(tmp_path / "f", sign=ME)).encoded
    assert Cid.of(data) != Cid.of(encode_manifest(plain))


async def test_signatures_that_are_not_believed(tmp_path):
    signed = sign_manifest(await manifest_of(tmp_path), ME)
    another = sign_manifest(await manifest_of(tmp_path, b"else"), ME)
    fields = msgpack.unpackb(encode_manifest(signed))
    spoiled = bytearray(signed.signature)
    spoiled[-1] ^= 1
    for wrong in (another.signature, bytes(spoiled), b"x", b"", b"x" * 5000, "text"):
        with pytest.raises(RemoteProtocolError, match="damaged manifest"):
            decode_manifest(msgpack.packb([*fields[:5], wrong]))
    renamed = replace(signed, name="g")
    with pytest.raises(RemoteProtocolError, match="damaged manifest"):
        decode_manifest(encode_manifest(renamed))


async def test_only_what_that_peer_has_signed_is_fetched(tmp_path):
    (tmp_path / "f").write_bytes(b"data")
    out = tmp_path / "out"
    async with memory_net() as net, Publisher(own := net.host(ME)) as publisher:
        plain = await publisher.publish(tmp_path / "f")
        signed = await publisher.publish(tmp_path / "f", sign=True)
        for ticket, options, says in (
            (plain, by(ME), "signed by nobody"),
            (signed, by(OTHER), f"signed by peer {ME.peer_id}, and not by {OTHER.peer_id}"),
        ):
            for node in (net.host(), own):  # its own publications are no exception
                with pytest.raises(SignatureError, match=says):
                    await fetch(node, ticket, out, options=options)
                with pytest.raises(SignatureError, match=says):
                    async for _ in stream_tensors(node, ticket, options=options):
                        pass
                assert not out.exists()
        result = await fetch(net.host(), signed, out, options=by(ME))
        assert result.manifest is not None
        assert result.manifest.signer == ME.peer_id
        assert (out / "f").read_bytes() == b"data"


def test_who_is_a_peer_id():
    with pytest.raises(ConfigError, match="signed_by"):
        FetchOptions(signed_by=str(ME.peer_id))  # type: ignore[arg-type]
