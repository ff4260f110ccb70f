"""The web page of the emulator: its files, its settings, and the tokens of its users."""

from __future__ import annotations

import re

import httpx
import jwt
import pytest

from servicebus_emulator.cloud.web import Web
from tests.support.processes import CHECKOUT

FOLDER = CHECKOUT / "emulator" / "servicebus_emulator" / "page"
SERVED = ["", "page.css", "page.js", "flow-client.js"]


@pytest.mark.parametrize("name", SERVED)
async def test_the_page_loads_no_file_of_another_host_and_no_inline_code(
    name: str, web: Web, client: httpx.AsyncClient
) -> None:
    answer = await client.get(f"{web.url}/page/{name}")
    assert answer.status_code == 200
    assert answer.content == (FOLDER / (name or "index.html")).read_bytes()
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self' http://127.0.0.1:8081;" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://", answer.text)
    assert not re.search(r"<script>|\son\w+=|style=", answer.text)


async def test_every_file_of_the_page_is_served(web: Web, client: httpx.AsyncClient) -> None:
    assert {path.name for path in FOLDER.iterdir()} == {name or "index.html" for name in SERVED}
    for name in ("index.html", "..", "settings.json", "page.js.map"):
        assert (await client.get(f"{web.url}/page/{name}")).status_code == 404
    assert (await client.get(f"{web.url}/page", follow_redirects=True)).url.path == "/page/"


def test_the_page_uses_the_published_client_unchanged() -> None:
    published = CHECKOUT / "clients" / "javascript" / "flow-client.js"
    assert (FOLDER / "flow-client.js").read_bytes() == published.read_bytes(), f"copy {published} to {FOLDER}"


async def test_a_user_of_the_page_gets_a_token_with_its_roles(web: Web, client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{web.url}/page/token", json={"user": "ada"})
    claims = web.verify(answer.json()["access_token"])
    assert claims["roles"] == ["Quotes.Create"]
    assert claims["aud"] == web.audience
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"user": "mallory"}, 404),
        ({"user": "ada", "roles": ["Flow.Invoke.OnBehalf"]}, 400),
        ({"user": "ada", "claims": {"oid": "x"}}, 400),
        ({}, 400),
        ([], 400),
    ],
)
async def test_nobody_else_gets_a_token_and_nobody_chooses_its_claims(
    body: object, status: int, web: Web, client: httpx.AsyncClient
) -> None:
    answer = await client.post(f"{web.url}/page/token", json=body)
    assert answer.status_code == status
    assert "access_token" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:8081"},
    ],
    ids=str,
)
async def test_a_page_of_another_site_gets_no_token_and_no_settings(
    headers: dict[str, str], web: Web, client: httpx.AsyncClient
) -> None:
    answer = await client.post(f"{web.url}/page/token", json={"user": "ada"}, headers=headers)
    assert answer.status_code == 403
    assert (await client.get(f"{web.url}/page/settings", headers=headers)).status_code == 403


async def test_a_program_sets_the_gateway_and_the_users(web: Web, client: httpx.AsyncClient) -> None:
    change = {"gateway": "http://127.0.0.1:7000/base", "users": [{"name": "eve", "roles": ["R"]}]}
    assert (await client.put(f"{web.url}/emulator/page", json=change)).json() == change
    assert (await client.get(f"{web.url}/page/settings")).json() == change
    policy = (await client.get(f"{web.url}/page/")).headers["Content-Security-Policy"]
    assert "connect-src 'self' http://127.0.0.1:7000;" in policy
    token = (await client.post(f"{web.url}/page/token", json={"user": "eve"})).json()["access_token"]
    assert jwt.decode(token, options={"verify_signature": False})["roles"] == ["R"]
    assert (await client.post(f"{web.url}/page/token", json={"user": "ada"})).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"gateway": "javascript:alert(1)"},
        {"gateway": "http://a; script-src *"},
        {"gateway": "http://a 'unsafe-inline'"},
        {"gateway": "http://a\r\nX: y"},
        {"users": [{"name": "a"}, {"name": "a"}]},
        {"users": [{"name": ""}]},
        {"unknown": 1},
    ],
    ids=str,
)
async def test_a_definition_that_cannot_be_is_refused(change: object, web: Web, client: httpx.AsyncClient) -> None:
    assert (await client.put(f"{web.url}/emulator/page", json=change)).status_code == 400
    assert (await client.get(f"{web.url}/page/settings")).json()["gateway"] == "http://127.0.0.1:8081"
