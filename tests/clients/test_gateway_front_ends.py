"""Front ends of the gateway in Chromium: a form's script and a control, which sign in with MSAL, and a tutorial's page.

Their own build files bundle them. Only the sign-in with Entra and Power Apps itself have stand-ins.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from flow_worker.demo.processes import free_port
from tests.clients.chromium import Browser, Page, running_browser
from tests.clients.gateway_stage import Stage, run, running_stage
from tests.clients.harness import HERE, NODE, node
from tests.integration.docs.programs import programs_of, run_python
from tests.support.processes import CHECKOUT

SAMPLES = CHECKOUT / "docs" / "samples"
CLIENT = CHECKOUT / "clients" / "javascript"
PACKAGES = SAMPLES / "pcf-control" / "node_modules"
GATEWAY = "https://flows.contoso.com"
TUTORIAL = CHECKOUT / "docs" / "tutorials" / "button-to-flow.md"
FLOWS: dict[str, dict[str, Any]] = {"create-quote": {}}
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@dataclass
class Site:
    """A web site on an origin that the gateway allows."""

    url: str
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        """Serve a file."""
        kind, content = self.files.get(request.path, ("text/html", b"<!doctype html><title>Site</title>"))
        return web.Response(body=content, content_type=kind)


@asynccontextmanager
async def running_site(port: int) -> AsyncIterator[Site]:
    site = Site(f"http://localhost:{port}")
    application = web.Application()
    application.router.add_get("/{path:.*}", site.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "localhost", port).start()
    try:
        yield site
    finally:
        await runner.cleanup()


@dataclass
class World:
    """Everything that runs."""

    stage: Stage
    site: Site
    browser: Browser
    folder: Path

    async def page(self, path: str = "/", script: str | None = None) -> Page:
        """Open a page of the site as `ada`, with a script of the site."""
        page = await self.browser.new_page()
        token = json.dumps(self.stage.system.claim())
        await page.send("Page.addScriptToEvaluateOnNewDocument", source=f"globalThis.userToken = {token};")
        await page.go(f"{self.site.url}{path}")
        await page.until("document.readyState === 'complete' && location.protocol === 'http:'")
        if script is not None:
            await page.run(ADD_SCRIPT % json.dumps(script))
        return page

    def with_gateway(self, text: str) -> str:
        """Replace the gateway's URL of a sample."""
        assert text.count(GATEWAY) == 1
        return text.replace(GATEWAY, self.stage.url)


ADD_SCRIPT = """new Promise((resolve, reject) => {
  const script = Object.assign(document.createElement("script"), { src: %s, onload: resolve, onerror: reject });
  document.head.append(script);
}).then(() => true)"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    node()
    folder, port = tmp_path_factory.mktemp("front-ends"), free_port()
    async with (
        running_browser(folder) as browser,
        running_stage(FLOWS, f"http://localhost:{port}") as stage,
        running_site(port) as site,
    ):
        yield World(stage, site, browser, folder)


FORM = """
  const values = { new_customer: "Contoso", new_amount: 125 };
  const notices = [];
  const form = {
    data: { entity: { getId: () => "{1}" } },
    getAttribute: (name) => ({ getValue: () => values[name], setValue: (value) => { values[name] = value; } }),
    ui: {
      setFormNotification: (...notice) => notices.push(notice),
      clearFormNotification: () => notices.push("cleared"),
    },
  };
"""


async def test_a_forms_script_writes_its_quote_also_after_a_reload(world: World) -> None:
    copy = world.folder / "form-script"
    shutil.copytree(SAMPLES / "form-script", copy, ignore=shutil.ignore_patterns("node_modules", "dist"))
    script = copy / "quote-form.mjs"
    script.write_text(world.with_gateway(script.read_text(encoding="utf-8")), encoding="utf-8")
    bundle = world.folder / "quote-form.js"
    built = await run([node(), "build-http.mjs", copy, "quote-form.mjs", bundle], folder=HERE / "browser")
    assert built.status == 0, built.errors
    world.site.files["/form.js"] = ("text/javascript", bundle.read_bytes())

    page = await world.page(script="/form.js")
    values, notices = await page.run(
        f"(async () => {{ {FORM} await QuoteForm.createQuote(form); return [values, notices]; }})()"
    )
    assert re.fullmatch(r"Q-\w+", values["new_quotenumber"]), notices
    assert notices[-1] == "cleared"
    assert notices[0][1:] == ["INFO", "quote"]

    await world.stage.system.put("flows/create-quote", {"delay_seconds": 2})
    await page.run(f"(() => {{ {FORM} QuoteForm.createQuote(form); }})()")
    await page.until("sessionStorage['quote of {1}']?.includes('\"id\"')")
    await page.send("Page.reload")
    await page.until("document.readyState === 'complete' && !globalThis.QuoteForm")
    await page.run(ADD_SCRIPT % '"/form.js"')
    values = await page.run(
        f"(async () => {{ {FORM} await QuoteForm.onLoad({{ getFormContext: () => form }}); return values; }})()"
    )
    assert re.fullmatch(r"Q-\w+", values["new_quotenumber"])
    assert len(await world.stage.system.calls("create-quote")) == 2
    await world.stage.system.put("flows/create-quote", {"delay_seconds": 0})
    assert page.errors == []


CONTROL = """(async () => {
  const host = document.createElement("div");
  document.body.append(host);
  const context = {
    mode: { isControlDisabled: false },
    parameters: { customer: { raw: "Contoso" }, amount: { raw: 7 }, quote: { raw: null } },
  };
  const control = new registered["Contoso.QuoteButton"]();
  const notified = new Promise((resolve) => control.init(context, resolve, {}, host));
  host.querySelector("button").click();
  await notified;
  await new Promise((resolve) => setTimeout(resolve));
  const outputs = control.getOutputs();
  const [text, disabled] = [host.querySelector("[role=status]").textContent, host.querySelector("button").disabled];
  control.destroy();
  return [outputs.quote, text, disabled];
})()"""
REGISTER = """
  globalThis.registered = {};
  globalThis.ComponentFramework = { registerControl: (name, control) => void (registered[name] = control) };
"""


async def test_the_control_writes_its_quote_and_can_be_used_again(world: World) -> None:
    if NODE is None or not (PACKAGES / "pcf-scripts").is_dir():
        pytest.skip("no npm packages; `npm install --prefix docs/samples/pcf-control` gets them")
    bundle = await built_control(world)
    world.site.files["/control.js"] = ("text/javascript", bundle.read_bytes())
    page = await world.page()
    await page.run(f"(() => {{ {REGISTER} }})()")
    await page.run(ADD_SCRIPT % '"/control.js"')
    quote, text, disabled = await page.run(CONTROL)
    assert re.fullmatch(r"Q-\w+", quote)
    assert text == quote
    assert not disabled
    assert page.errors == []


async def built_control(world: World) -> Path:
    """Build the control in a copy, with the client beside it and a stand-in for MSAL; return its bundle."""
    control = world.folder / "pcf-control"
    shutil.copytree(PACKAGES.parent, control, ignore=shutil.ignore_patterns("node_modules", "out", "generated"))
    source = control / "QuoteButton" / "create-quote.ts"
    source.write_text(world.with_gateway(source.read_text(encoding="utf-8")), encoding="utf-8")
    packages = control / "node_modules"
    packages.mkdir()
    for package in PACKAGES.iterdir():
        if package.name not in ("@azure", "flow-worker-client"):
            (packages / package.name).symlink_to(package)
    shutil.copytree(CLIENT, packages / "flow-worker-client", ignore=shutil.ignore_patterns("node_modules", "test"))
    msal = packages / "@azure" / "msal-browser"
    msal.mkdir(parents=True)
    manifest = {"name": "@azure/msal-browser", "version": "4.0.0", "main": "msal.mjs", "types": "msal.d.ts"}
    (msal / "package.json").write_text(json.dumps(manifest), encoding="utf-8")
    for name in ("msal.mjs", "msal.d.ts"):
        shutil.copy(HERE / "browser" / name, msal)
    command: list[str | Path] = [
        node(),
        PACKAGES / "pcf-scripts" / "bin" / "pcf-scripts.js",
        "build",
        "--buildMode",
        "production",
    ]
    built = await run(command, folder=control, seconds=240)
    assert built.status == 0, built.output + built.errors
    return control / "out" / "controls" / "QuoteButton" / "bundle.js"


async def test_the_python_program_of_the_guide_prints_its_quote(world: World) -> None:
    _, program = programs_of("how-to/start-flows-over-http.md")
    variables = {"FLOW_WORKER_GATEWAY_URL": world.stage.url, "FLOW_WORKER_CLAIM": world.stage.system.claim()}
    assert "{'quote': 'Q-" in await run_python("-c", program, variables=variables)


async def _press_the_button_of_the_tutorial(world: World, gateway: str, token: str) -> Page:
    found = re.search(r"```html\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    world.site.files["/button.html"] = ("text/html", found[1].encode())
    world.site.files["/flow-client.js"] = ("text/javascript", (CLIENT / "flow-client.js").read_bytes())
    page = await world.browser.new_page()
    answers = json.dumps({"URL of the gateway": gateway, "Token": token})
    await page.send("Page.addScriptToEvaluateOnNewDocument", source=f"globalThis.prompt = (name) => ({answers})[name];")
    await page.go(f"{world.site.url}/button.html")
    await page.until("Boolean(document.querySelector('button')?.onclick)")
    await page.run("document.querySelector('button').click()")
    return page


async def test_the_page_of_the_tutorial_shows_its_quote(world: World) -> None:
    page = await _press_the_button_of_the_tutorial(world, world.stage.url, world.stage.system.claim())
    await page.until("/^Quote Q-/.test(document.querySelector('p').textContent)")
    assert page.errors == []


async def test_the_page_of_the_tutorial_shows_a_refusal_and_forgets_it(world: World) -> None:
    page = await _press_the_button_of_the_tutorial(world, world.stage.url, "no.token.here")
    await page.until("/Reload the page/.test(document.querySelector('p').textContent)")
    assert await page.run("sessionStorage.length") == 0


async def test_the_page_of_the_tutorial_says_that_it_cannot_reach_the_gateway(world: World) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    page = await _press_the_button_of_the_tutorial(world, address, world.stage.system.claim())
    await page.until("/gateway is down.* Reload the page/.test(document.querySelector('p').textContent)")
    assert await page.run("sessionStorage.length") == 0
