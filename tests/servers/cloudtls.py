"""TLS in front of another server on this machine, with a certificate of an authority that nobody knows."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path


def make_authority(folder: Path) -> tuple[str, str]:
    """The paths of an authority's certificate, and of a server's key and certificate for 127.0.0.1 that it signed."""
    x509: Any = pytest.importorskip("cryptography.x509")
    hashes: Any = pytest.importorskip("cryptography.hazmat.primitives.hashes")
    curves: Any = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    forms: Any = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    now, pem = datetime.now(UTC), forms.Encoding.PEM
    authority, server = (curves.generate_private_key(curves.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "An authority of our own")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])

    def signed(subject: Any, key: Any, extension: Any, ca: bool) -> bytes:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(1))
        made = made.not_valid_after(now + timedelta(1)).add_extension(x509.BasicConstraints(ca, None), critical=True)
        made = made if extension is None else made.add_extension(extension, critical=False)
        usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
        made = made.add_extension(usage, critical=True)
        named = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        made = made.add_extension(named, critical=False)
        known = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
        made = made.add_extension(known, critical=False)
        data: bytes = made.sign(authority, hashes.SHA256()).public_bytes(pem)
        return data

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    (folder / "authority.pem").write_bytes(signed(issuer, authority, None, ca=True))
    key = server.private_bytes(pem, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    (folder / "server.pem").write_bytes(key + signed(subject, server, here, ca=False))
    return str(folder / "authority.pem"), str(folder / "server.pem")


@asynccontextmanager
async def tls_before(port: int, certificate: str) -> AsyncGenerator[str]:
    """The URL of a TLS server in this event loop that passes all bytes on to a port of 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    under_way: set[asyncio.Task[None] | None] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way.add(asyncio.current_task())
        there, back = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            for end in (back, writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        tasks = [task for task in under_way if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
