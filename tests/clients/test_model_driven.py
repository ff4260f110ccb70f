"""The button of a model-driven form, from the click to the row of its result, in Chromium: `docs/samples/model-driven`.

The browser has the session of a user and nothing else: no token, and no right on Service Bus. The stand-in for Power
Apps calls the real paths of the Web API. The worker's settings are those of the sample.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from flow_worker.settings import Settings
from servicebus_emulator import config
from tests.clients.chromium import Browser, Page, running_browser
from tests.clients.gateway_stage import run
from tests.support.processes import CHECKOUT
from tests.support.system import JsonObject, System, running_system

SAMPLE = CHECKOUT / "docs" / "samples" / "model-driven"
ROWS = "new_flowrequests"
API = config.load(None).http.dataverse.custom_apis[0]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@dataclass
class Form:
    """The system, with a browser that shows the form."""

    system: System
    browser: Browser

    @property
    def url(self) -> str:
        """The URL of the organization, and the origin of its pages."""
        return self.system.emulator.web.dataverse_url

    async def open(self, user: str) -> Page:
        """Open the form in a new tab, for this user."""
        page = await self.browser.new_page()
        await page.go(f"{self.url}/WebResources/new_form.html?user={user}")
        await page.until("'ready' in document.documentElement.dataset")
        return page

    async def click(self, page: Page, count: int = 1) -> None:
        """Press the button of the form."""
        await page.run(f"for (let n = 0; n < {count}; n++) document.querySelector('button').click()")

    async def rows(self, table: str = ROWS) -> list[JsonObject]:
        """Return all rows of a table."""
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{self.system.emulator.web.url}/emulator/dataverse/rows/{table}")
        rows: list[JsonObject] = answer.raise_for_status().json()["rows"]
        return rows

    async def first(self, table: str, data: str = "") -> JsonObject:
        """Wait until the table has a row, or one whose `data` contains this text, and return it."""
        async with asyncio.timeout(20):
            while True:
                if found := [row for row in await self.rows(table) if data in str(row.get("data"))]:
                    return found[0]
                await asyncio.sleep(0.05)

    async def newest(self) -> JsonObject:
        """Return the row of the latest request."""
        return (await self.rows())[-1]


def settings_of(system: System) -> Settings:
    """Return the settings of the sample for this system: other URLs, and the waits of the tests."""
    web = system.emulator.web
    sample = tomllib.loads((SAMPLE / "worker.toml").read_text(encoding="utf-8"))
    sample["dataverse"] |= {"url": web.dataverse_url, "request_seconds": 2}
    sample["flows"]["create-quote"]["url"] = web.flow_url("create-quote")
    hosts = [httpx.URL(each).netloc.decode() for each in (web.dataverse_url, web.url)]
    system.flows = {}
    tests: JsonObject = {
        "plain_http_hosts": hosts,
        "outbox": {"interval_seconds": 0.2},
        "run_records": {"enabled": True, "grace_seconds": 2, "pause_seconds": 0.3},
        "explain_refusals": True,
    }
    return system.settings(**sample, **tests)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def form(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Form]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with (
            running_browser(tmp_path_factory.mktemp("model-driven")) as browser,
            running_system(monkeypatch) as system,
            system.worker(settings_of(system)),
        ):
            uploaded = await run([sys.executable, SAMPLE / "emulator" / "upload.py", system.emulator.web.url])
            assert uploaded.status == 0, uploaded.errors
            assert uploaded.output == f"{system.emulator.web.dataverse_url}/WebResources/new_form.html?user=ada\n"
            yield Form(system, browser)


async def test_a_click_starts_the_flow_and_the_form_shows_its_row(form: Form) -> None:
    await form.system.put("flows/create-quote", {"delay_seconds": 1})
    page = await form.open("ada")
    await form.click(page, 3)
    await page.until("document.querySelector('[role=status]').textContent === 'INFO The quote is being made.'")
    assert (await form.first(ROWS))["new_status"] == "pending"
    quote = await page.until("document.querySelector('output').value")
    assert re.fullmatch(r"Q-\w+", quote)
    assert await page.run("notices") == ["INFO", "INFO", "cleared"]
    (row,) = await form.rows()
    ids = form.system.emulator.web.dataverse.directory.ids_of("ada")
    assert (row["new_status"], row["ownerid"]) == ("succeeded", str(ids[1])), (
        "one click counts, and its user owns the row"
    )
    (call,) = await form.system.calls("create-quote")
    assert call["body"] == {"customer": "Contoso", "amount": 125.5}
    assert await page.run("sessionStorage.length") == 0
    assert page.errors == []
    await form.system.put("flows/create-quote", {"delay_seconds": 0})


async def test_no_token_and_no_address_of_service_bus_reaches_the_browser(form: Form) -> None:
    page = await form.open("ada")
    # The first load signs in at the emulator. In an environment the user is signed in before.
    await page.go("about:blank")
    await page.until("location.protocol === 'about:'")
    page.traffic.clear()
    await page.go(f"{form.url}/WebResources/new_form.html")
    await page.until("'ready' in document.documentElement.dataset")
    await form.click(page)
    await page.until("document.querySelector('output').value")
    requests = [event for method, event in page.traffic if method == "Network.requestWillBeSent"]
    assert {event["request"]["method"] for event in requests} == {"GET", "POST"}
    assert {event["request"]["url"].startswith(f"{form.url}/") for event in requests} == {True}
    answered = {event["requestId"] for method, event in page.traffic if method == "Network.loadingFinished"}
    assert answered >= {event["requestId"] for event in requests}
    contents = [
        (await page.send("Network.getResponseBody", requestId=event["requestId"]))["body"] for event in requests
    ]
    text = json.dumps([page.traffic, contents])
    assert re.search(r"eyJ[\w-]{8,}\.eyJ", text) is None, "a token"
    seen = text.lower()
    assert "correlationid" in seen
    web, bus = form.system.emulator.web, form.system.emulator.connection_string.split(";")
    secrets = ["bearer", '"authorization"', "sb://", "sharedaccess", "amqp", "/triggers/", "sig="]
    secrets += [bus[0].split("//")[1], web.environment()["IDENTITY_HEADER"]]
    assert [secret for secret in secrets if secret.lower() in seen] == []
    assert not [method for method, _ in page.traffic if method == "Network.webSocketCreated"]


async def test_a_form_finds_its_request_again_after_a_reload(form: Form) -> None:
    await form.system.put("flows/create-quote", {"delay_seconds": 1})
    calls = len(await form.system.calls("create-quote"))
    page = await form.open("ada")
    await form.click(page)
    await page.until("sessionStorage.length === 1")
    await page.send("Page.reload")
    await page.until("document.querySelector('output').value")
    assert await page.run("notices") == ["INFO", "cleared"]
    assert len(await form.system.calls("create-quote")) == calls + 1
    await form.system.put("flows/create-quote", {"delay_seconds": 0})


async def test_a_form_learns_later_how_an_unknown_request_ended(form: Form) -> None:
    await form.system.put("flows/create-quote", {"faults": [{"kind": "reset_after_reading", "next_calls": 1}]})
    page = await form.open("ada")
    await form.click(page)
    await page.until("/^WARNING Nobody knows/.test(document.querySelector('[role=status]').textContent)")
    assert await page.run("sessionStorage.length") == 1
    async with asyncio.timeout(20):
        while (await form.newest())["new_settledby"] is None:  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.1)
    await page.send("Page.reload")
    await page.until("/^WARNING The quote was made/.test(document.querySelector('[role=status]').textContent)")
    assert await page.run("sessionStorage.length") == 0


async def test_the_custom_api_refuses_a_user_without_its_privilege(form: Form) -> None:
    before = len(await form.rows()), len(await form.system.calls("create-quote"))
    page = await form.open("bob")
    await form.click(page)
    notice = await page.until("/^ERROR .*/.exec(document.querySelector('[role=status]').textContent)?.[0]")
    assert "prvCreatenew_quote" in notice
    assert await page.run("sessionStorage.length") == 0
    assert (len(await form.rows()), len(await form.system.calls("create-quote"))) == before
    assert form.system.depth("active", "dataverse-requests") == 0


async def test_a_user_with_the_privilege_of_the_api_alone_finds_a_refused_row(form: Form) -> None:
    calls = len(await form.system.calls("create-quote"))
    definition = API.model_copy(update={"execute_privilege_name": "prvReadnew_quote"})
    await form.system.put("dataverse", {"custom_apis": [definition.model_dump(mode="json")]})
    try:
        page = await form.open("bob")
        await form.click(page)
        await page.until("/^ERROR .*privilege_missing/.test(document.querySelector('[role=status]').textContent)")
    finally:
        await form.system.put("dataverse", {"custom_apis": [API.model_dump(mode="json")]})
    row = await form.newest()
    assert (row["new_status"], row["new_code"], row["new_output"]) == ("refused", "privilege_missing", None)
    assert len(await form.system.calls("create-quote")) == calls
    bell = await form.first("appnotifications", row["new_flowrequestid"])
    assert bell["ownerid"] == row["ownerid"]


async def test_a_user_cannot_read_the_row_of_another(form: Form) -> None:
    page = await form.open("ada")
    await form.click(page)
    await page.until("document.querySelector('output').value")
    row = await form.newest()
    page = await form.open("grace")
    read = "Xrm.WebApi.retrieveRecord('new_flowrequest', '%s').then(() => 'read', ({errorCode}) => errorCode)"
    assert await page.run(read % row["new_flowrequestid"]) == 0x80048306
    find = 'Xrm.WebApi.retrieveMultipleRecords("new_flowrequest", "?$filter=new_correlationid eq \'%s\'")'
    assert (await page.run(find % row["new_correlationid"]))["entities"] == []
    await page.run("sessionStorage.setItem('quote of {6F9619FF-8B86-D011-B42D-00C04FC964FF}', 'x eq 1')")
    await page.send("Page.reload")
    await page.until("/^ERROR .*no valid request/.test(document.querySelector('[role=status]').textContent)")
