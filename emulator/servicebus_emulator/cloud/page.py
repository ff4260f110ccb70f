"""`/page/`: a web page that starts flows through the worker's HTTP gateway, which has another origin.

`GET` and `PUT /emulator/page` read and change its definition. `POST /page/token` mints the tokens of its users only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError

from servicebus_emulator.cloud.entra.issuer import Issuer, TokenRequest
from servicebus_emulator.cloud.page_definition import PageDefinition
from servicebus_emulator.validation import explain

_FOLDER = Path(__file__).parents[1] / "page"
_KINDS = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript", "flow-client.js": "text/javascript"}
"""The files by the name in the URL, with their media types. The empty name is that of `index.html`."""
_MERGE_PATCH: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class _PageToken(BaseModel):
    """The body of `POST /page/token`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str


class Page:
    """Serves the page, its settings and its users' tokens."""

    def __init__(self, definition: PageDefinition, issuer: Issuer) -> None:
        self._definition = definition
        self._issuer = issuer

    def routes(self) -> Sequence[web.RouteDef]:
        """Return the routes for the web server. Its guard refuses foreign hosts and origins."""
        return [
            web.get("/page", self._redirect),
            web.get("/page/settings", self._settings),
            web.get("/page/{name:[a-z.-]*}", self._file),
            web.post("/page/token", self._token),
            web.get("/emulator/page", self._get),
            web.put("/emulator/page", self._put),
        ]

    async def _redirect(self, _: web.Request) -> web.Response:
        return web.Response(status=308, headers={"Location": "/page/"})

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        kind = _KINDS.get(name)
        if kind is None:
            return _error(404, "NotFound", f"The page has no file '{name}'.")
        content = (_FOLDER / (name or "index.html")).read_bytes()
        return web.Response(body=content, content_type=kind, charset="utf-8", headers=self._headers())

    def _headers(self) -> dict[str, str]:
        """Return headers that let the page run its own files only, and connect to its gateway only."""
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
            f"connect-src 'self' {_origin(self._definition.gateway)}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return {
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    async def _settings(self, _: web.Request) -> web.Response:
        users: JsonValue = [{"name": user.name, "roles": list(user.roles)} for user in self._definition.users]
        document = {"gateway": self._definition.gateway, "users": users}
        return web.json_response(document, headers={"Cache-Control": "no-store"})

    async def _token(self, request: web.Request) -> web.Response:
        try:
            asked = _PageToken.model_validate_json(await request.read())
        except ValidationError as error:
            return _error(400, "InvalidRequest", explain(error))
        user = next((user for user in self._definition.users if user.name == asked.user), None)
        if user is None:
            return _error(404, "NotFound", "The page has no such user; PUT /emulator/page defines its users.")
        token = self._issuer.mint(TokenRequest(user=user.name, roles=user.roles))
        return web.json_response({"access_token": token}, headers={"Cache-Control": "no-store"})

    async def _get(self, _: web.Request) -> web.Response:
        return web.json_response(self._definition.model_dump(mode="json"))

    async def _put(self, request: web.Request) -> web.Response:
        try:
            patch = _MERGE_PATCH.validate_json(await request.read())
            self._definition = PageDefinition.model_validate(
                self._definition.model_dump(mode="json") | patch, by_name=True, by_alias=False
            )
        except ValidationError as error:
            return _error(400, "InvalidRequest", explain(error))
        return await self._get(request)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
