"""Certificates for servers on loopback, and clients that trust them."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lattica.nat.transport.tls import client_context

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def certified(folder: Path, *names: str, valid_from: int = -1) -> Contexts:
    """A server's context with a certificate for these names and 127.0.0.1, valid for two days from
    so many days on, and a client's that trusts it. The certificate is written to a file in
    `folder`.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    start = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=valid_from)
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    alternatives = [*map(x509.DNSName, names), loopback]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pem)
    client = client_context()
    client.load_verify_locations(pem)
    return server, client
