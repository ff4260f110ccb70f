"""The journal's table with a managed identity, whose token comes from an endpoint like that of App Service."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.x509.oid import NameOID

from flow_worker.demo.processes import free_port
from tests.support.azurite import azurite
from tests.support.processes import CHECKOUT

SECRET = "the-identity-header"
CLIENT = "11111111-2222-3333-4444-555555555555"


async def test_a_managed_identity_opens_the_table(tmp_path: Path) -> None:
    certificate, key = self_signed_certificate(tmp_path)
    port = free_port()
    options = ("--oauth", "basic", "--cert", str(certificate), "--key", str(key))
    async with azurite(tmp_path, port, *options), identity_endpoint() as (endpoint, queries):
        # In a separate process: aiohttp reads the trusted certificates when it is imported.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.conformance.journal.by_identity"),
            *(f"https://127.0.0.1:{port}/devstoreaccount1", CLIENT),
            cwd=CHECKOUT,
            env={
                **os.environ,
                "SSL_CERT_FILE": str(certificate),
                "IDENTITY_ENDPOINT": endpoint,
                "IDENTITY_HEADER": SECRET,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert output.split()[-1:] == [b"Concluded"], output.decode()
    assert {(query["resource"], query["client_id"]) for query in queries} == {("https://storage.azure.com", CLIENT)}


@asynccontextmanager
async def identity_endpoint() -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """Serve tokens of a managed identity as App Service does; yield its URL and the queries that it received."""
    queries: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        if request.headers["X-IDENTITY-HEADER"] != SECRET:
            return web.Response(status=401)
        queries.append(dict(request.query))
        now = int(time.time())
        times = {"iat": now, "nbf": now, "exp": now + 3600}
        token_claims = {"aud": request.query["resource"], "iss": "https://sts.windows.net/t/", **times}
        token = jwt.encode(token_claims, "Azurite reads the claims and not the signature", algorithm="HS256")
        return web.json_response(
            {
                "access_token": token,
                "expires_on": str(now + 3600),
                "resource": token_claims["aud"],
                "token_type": "Bearer",
            }
        )

    application = web.Application()
    application.router.add_get("/token", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/token", queries
    finally:
        await runner.cleanup()


def self_signed_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for the loopback address and its key; return both paths."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
