"""The emulator's web page in Chromium, with a gateway on another origin: two users, a reload, a lost network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.clients.chromium import Browser, Page, running_browser
from tests.clients.gateway_stage import Stage, running_stage
from tests.clients.relay import Relay, running_relay

SCHEMA = {"properties": {"customer": {"type": "string"}, "amount": {"type": "number"}}}
FLOWS: dict[str, dict[str, Any]] = {
    "create-quote": {"title": "Create a quote", "input_schema": SCHEMA},
    "slow-report": {},
    "broken-approval": {},
}
SLOW_SECONDS = 4
OFFLINE_SECONDS = 10
IDLE = "document.querySelector('#start')?.disabled === false"
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with running_stage(FLOWS) as running:
        await running.system.put("flows/slow-report", {"delay_seconds": SLOW_SECONDS})
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def network(stage: Stage) -> AsyncIterator[Relay]:
    """The network between the browser and the gateway."""
    async with running_relay(stage.url) as relay:
        await stage.system.put("page", {"gateway": relay.url})
        yield relay


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with running_browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


async def page_of(stage: Stage, browser: Browser, user: str = "ada") -> Page:
    """Open the page as a user."""
    page = await browser.new_page()
    await page.go(f"{stage.system.emulator.web.url}/page/")
    await page.until(IDLE)
    if user != "ada":
        await choose(page, "user", user)
        await page.until(f"document.querySelector('#roles').textContent && {IDLE}")
    return page


async def choose(page: Page, name: str, value: str) -> None:
    await page.run(
        f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('change')); }})"
        f"(document.querySelector('#{name}'))"
    )


async def start(page: Page, flow: str) -> str:
    """Start a flow; return the ID of the request."""
    await choose(page, "flow", flow)
    await page.run("document.querySelector('#start').click()")
    line = await page.until(
        "[...document.querySelectorAll('#history li')].find(li => li.textContent.includes('accepted'))?.textContent"
    )
    return str(line).rsplit(" ", 1)[1]


async def text(page: Page, selector: str) -> str:
    return str(await page.run(f"document.querySelector('{selector}').textContent"))


async def states(page: Page) -> list[str]:
    """Return the states that the page has shown."""
    shown: list[str] = await page.run("[...document.querySelectorAll('#history b')].map(b => b.textContent)")
    return shown


async def test_a_user_watches_a_flow_and_another_user_reads_nothing(stage: Stage, browser: Browser) -> None:
    page = await page_of(stage, browser)
    request = await start(page, "slow-report")
    await page.until(IDLE)
    shown = await states(page)
    assert shown[0] == "accepted"
    assert "calling" in shown, shown
    assert shown[-1] == "succeeded"
    assert '"report": "R-' in await text(page, "#result")

    await page.run("document.querySelector('#read').click()")
    await page.until("!document.querySelector('#other-answer').hidden")
    assert json.loads(await text(page, "#other-answer"))["code"] == "not_found"
    assert "grace gets 404" in await text(page, "#other-state")
    assert request not in await text(page, "#result")
    assert page.errors == []


async def test_two_users_cannot_read_each_others_results(stage: Stage, browser: Browser, network: Relay) -> None:
    ada, grace = await page_of(stage, browser), await page_of(stage, browser, "grace")
    pages = {"ada": ada, "grace": grace}
    requests = {name: await start(page, "create-quote") for name, page in pages.items()}
    for name, page in pages.items():
        await page.until(IDLE)
        for owner, request in requests.items():
            status = await page.run(
                f"""(async () => {{
                  const post = {{ method: "POST", body: JSON.stringify({{ user: "{name}" }}) }};
                  const {{ access_token }} = await (await fetch("token", post)).json();
                  const headers = {{ Authorization: `Bearer ${{access_token}}` }};
                  const urls = ["", "?wait=1", "/events"].map((end) => "{network.url}/v1/requests/{request}" + end);
                  return Promise.all(urls.map(async (url) => (await fetch(url, {{ headers }})).status));
                }})()"""
            )
            assert status == [200 if owner == name else 404] * 3, (name, owner)


async def test_a_reload_in_the_middle_finds_the_request_again(stage: Stage, browser: Browser) -> None:
    page = await page_of(stage, browser, "grace")
    request = await start(page, "slow-report")
    calls = len(await stage.system.calls("slow-report"))
    await page.send("Page.reload")
    await page.until("document.querySelector('#history')?.textContent.includes('resumed')")
    assert await page.run("document.querySelector('#user').value") == "grace"
    assert request in await text(page, "#history")
    await page.until(f"{IDLE} && !document.querySelector('#outcome').hidden")
    assert (await states(page))[-1] == "succeeded"
    assert len(await stage.system.calls("slow-report")) <= calls + 1
    await page.send("Page.reload")
    await page.until(IDLE)
    assert await states(page) == []


async def test_a_lost_network_of_ten_seconds_loses_nothing(stage: Stage, browser: Browser, network: Relay) -> None:
    waiting, starting = await page_of(stage, browser), await page_of(stage, browser, "grace")
    calls = [len(await stage.system.calls(flow)) for flow in ("slow-report", "create-quote")]
    await start(waiting, "slow-report")
    for page in (waiting, starting):
        await page.set_offline(True)
    network.lose()  # Chromium's own switch leaves open streams alone
    await waiting.until("document.querySelector('#history').textContent.includes('offline')")
    await choose(starting, "flow", "create-quote")
    await starting.run("document.querySelector('#start').click()")
    await asyncio.sleep(OFFLINE_SECONDS)
    for page in (waiting, starting):
        assert not await page.run(IDLE)

    network.is_lost = False
    for page in (waiting, starting):
        await page.set_offline(False)
    for page in (waiting, starting):
        await page.until(IDLE, 10)  # at once, because the browser says that it is online
        assert (await states(page))[-1] == "succeeded"
    assert [len(await stage.system.calls(flow)) for flow in ("slow-report", "create-quote")] == [n + 1 for n in calls]


async def test_an_unknown_end_and_a_user_without_the_role_are_shown(stage: Stage, browser: Browser) -> None:
    page = await page_of(stage, browser)
    await start(page, "broken-approval")
    await page.until(IDLE)
    assert (await states(page))[-1] == "unknown"
    await choose(page, "user", "bob")
    await page.until("document.querySelector('#flows').textContent === 'This user may start no flow.'")
    assert not await page.run(IDLE)


async def test_an_input_that_is_no_json_is_not_sent(stage: Stage, browser: Browser) -> None:
    page = await page_of(stage, browser)
    await page.run("document.querySelector('#input').value = '{'; document.querySelector('#start').click()")
    assert "no JSON" in await text(page, "#input-error")
    assert await page.run("document.activeElement.id") == "input"
    assert await states(page) == []


async def test_the_page_stops_waiting_and_the_flow_continues(stage: Stage, browser: Browser) -> None:
    page = await page_of(stage, browser)
    await start(page, "slow-report")
    await page.run("document.querySelector('#stop').click()")
    await page.until(IDLE)
    assert "The flow continues." in await text(page, "#state")
    await page.send("Page.reload")
    await page.until("document.querySelector('#state')?.dataset.state === 'good'")


async def test_a_page_of_an_origin_that_is_not_allowed_gets_nothing(stage: Stage, browser: Browser) -> None:
    page = await browser.new_page()
    url = stage.system.emulator.web.url.replace("127.0.0.1", "localhost")
    await page.go(f"{url}/page/")
    await page.until("document.querySelector('#flows')?.textContent.includes('does not allow this page')")


async def test_the_keyboard_reaches_everything_in_order(stage: Stage, browser: Browser) -> None:
    page = await page_of(stage, browser)
    await choose(page, "flow", "create-quote")
    reached = []
    for _ in range(5):
        await page.press("Tab", 9)
        reached.append(await page.run("document.activeElement.id"))
    assert reached == ["user", "flow", "input", "start", "other"]
    assert (
        await page.run(
            "document.querySelector('#start').focus({ focusVisible: true }),"
            "getComputedStyle(document.activeElement).outlineStyle"
        )
        == "solid"
    )
    await page.press("Enter", 13, "\r")
    await page.until(f"{IDLE} && document.querySelector('#state').dataset.state === 'good'")
    # A disabled button loses the focus: the next key would go to the page.
    assert await page.run("document.activeElement.id") == "start"
    await page.press("Enter", 13, "\r")
    assert await page.run("document.activeElement.id") == "stop"
    await page.press("Enter", 13, "\r")
    await page.until(f"{IDLE} && document.activeElement.id === 'start'")


async def test_a_screen_reader_gets_names_and_changes(stage: Stage, browser: Browser) -> None:
    page = await page_of(stage, browser)
    nodes = (await page.send("Accessibility.getFullAXTree"))["nodes"]
    found = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    ]
    roles = {role: [name for each, name in found if each == role] for role, _ in found}
    assert roles["combobox"] == ["User", "Flow", "Read as"]
    assert roles["textbox"] == ["Input (JSON)"]
    assert roles["button"] == ["Start flow", "Stop waiting", "Read the result"]
    assert roles["log"] == ["State changes"]
    assert {"main", "banner", "heading", "status", "alert"} <= roles.keys()
    assert await page.run("document.documentElement.lang") == "en"


CONTRAST = """(() => {
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.map(channel).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = numbers(getComputedStyle(e).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.disabled || e.tagName === "OPTION" || !e.checkVisibility()) continue;
    const [a, b] = [light(numbers(getComputedStyle(e).color).slice(0, 3)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push(`${e.tagName} ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return weak;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1000])
async def test_the_page_fits_and_can_be_read(width: int, scheme: str, stage: Stage, browser: Browser) -> None:
    page = await page_of(stage, browser)
    await page.look(width, scheme)
    await start(page, "create-quote")
    await page.until(IDLE)
    await page.run("document.querySelector('#read').click()")
    await page.until("!document.querySelector('#other-answer').hidden")
    assert await page.run("document.documentElement.scrollWidth") <= width
    too_wide = (
        "[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth)"
    )
    assert await page.run(f"{too_wide}.map(e => e.tagName + e.id)") == []
    assert await page.run(CONTRAST) == []
    too_small = await page.run(
        "[...document.querySelectorAll('button, select')].filter(e => e.offsetHeight < 44).map(e => e.id)"
    )
    assert too_small == []
