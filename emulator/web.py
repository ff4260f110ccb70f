"""One web server for all that is HTTP: managed identity, token issuer, flows, and the control of their faults.

Control, while it runs, in JSON with the field names of `emulator.definitions`:

- `POST /emulator/token`                 mint a user's token, right or wrong (`TokenRequest`)
- `PUT /emulator/flows/{name}`           merge fields into a flow's definition, or make a flow (`FlowDefinition`)
- `GET /emulator/flows/{name}/calls`     the calls a flow has seen, and what became of them (`emulator.runs.Call`)
- `PUT /emulator/identity`, `GET` of it  faults and token lifetime; how many calls there were (`IdentityPatch`)
- `PUT /emulator/issuer`                 faults of discovery and key set, key rotation (`IssuerPatch`)
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from aiohttp import web
from pydantic import JsonValue, TypeAdapter, ValidationError

from emulator.admission import Doorman
from emulator.config import explain
from emulator.definitions import Definition, Fault, HttpDefinition
from emulator.faults import Faults, inflict
from emulator.flows import FlowHost
from emulator.identity import IdentityEndpoint, IdentityPatch
from emulator.issuer import Issuer, TokenRequest

MAX_REQUEST_BYTES = 100 * 1024 * 1024
"""What a flow takes (Microsoft Learn, "Limits of automated, scheduled, and instant flows": message size)."""

QueueCounts = Mapping[str, Mapping[str, int]]
_FLOWS = "/powerautomate/automations/direct/workflows"
_STOP_SECONDS = 0.5
_PATCH: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class IssuerPatch(Definition):
    """What `PUT /emulator/issuer` changes: faults of discovery and key set, and the keys themselves."""

    faults: tuple[Fault, ...] | None = None
    rotate: bool = False
    """Sign with a new key from now on."""
    keep_old_keys: bool = True
    """Whether a rotation goes on publishing the keys before it."""


@dataclass(frozen=True, slots=True)
class Web:
    """A running server: its addresses, and its parts for tests in the same process."""

    url: str
    identity_endpoint: str
    identity_header: str = field(repr=False)
    tenant_id: UUID
    issuer: str
    audience: str
    """The worker's own: what a sender's token must be for."""
    flows_url: str
    flows: FlowHost
    identity: IdentityEndpoint
    tokens: Issuer

    def flow_url(self, name: str) -> str:
        """The URL that starts a flow."""
        return f"{self.flows_url}/{name}/triggers/manual/paths/invoke?api-version=1"

    def environment(self) -> dict[str, str]:
        """The variables by which azure-identity finds the managed-identity endpoint."""
        return {"IDENTITY_ENDPOINT": self.identity_endpoint, "IDENTITY_HEADER": self.identity_header}


@asynccontextmanager
async def running_web(
    definition: HttpDefinition,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    queue_counts: Callable[[], QueueCounts] = dict,
) -> AsyncIterator[Web]:
    """Serve until the block ends; port 0 picks a free one. Raises `OSError` if the port cannot be had.

    `queue_counts` is what `GET /emulator/queues` answers: each queue's messages by state.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listener:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        site = _Site(f"http://{shown}:{listener.getsockname()[1]}", definition, queue_counts)
        # A caller that hangs up ends its handler, or faults that hang would pile up.
        runner = web.AppRunner(
            site.application(), access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_SECONDS
        )
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield site.web
        finally:
            await runner.cleanup()


class _Site:
    """The routes, and the handlers too small for a module of their own."""

    def __init__(self, url: str, definition: HttpDefinition, queue_counts: Callable[[], QueueCounts]) -> None:
        self._queue_counts = queue_counts
        self._issuer = Issuer(url, definition.identity)
        self._issuer_faults = Faults()
        self._identity = IdentityEndpoint(self._issuer, definition.identity)
        self._flows = FlowHost(definition.flows, Doorman(self._issuer, definition.identity))
        self.web = Web(
            url=url,
            identity_endpoint=f"{url}/msi/token",
            identity_header=self._identity.header,
            tenant_id=definition.identity.tenant_id,
            issuer=self._issuer.v2(definition.identity.tenant_id),
            audience=definition.identity.worker_audience,
            flows_url=f"{url}{_FLOWS}",
            flows=self._flows,
            identity=self._identity,
            tokens=self._issuer,
        )

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_REQUEST_BYTES)
        tenant = r"/{tenant:[0-9a-fA-F-]{36}}"
        application.add_routes(
            [
                web.get("/msi/token", self._identity.token),
                web.get(f"{tenant}/v2.0/.well-known/openid-configuration", self._discovery_v2),
                web.get(f"{tenant}/.well-known/openid-configuration", self._discovery_v1),
                web.get(f"{tenant}/discovery/v2.0/keys", self._keys),
                web.route("*", f"{_FLOWS}/{{name}}/triggers/manual/paths/invoke", self._flows.invoke),
                web.get(f"{_FLOWS}/{{name}}/runs/{{run_id}}/operations/{{operation_id}}", self._flows.poll),
                web.get("/emulator/queues", self._queues),
                web.post("/emulator/token", self._mint),
                web.put("/emulator/flows/{name}", self._put_flow),
                web.get("/emulator/flows/{name}/calls", self._calls),
                web.get("/emulator/identity", self._get_identity),
                web.put("/emulator/identity", self._put_identity),
                web.put("/emulator/issuer", self._put_issuer),
            ]
        )
        return application

    async def _discovery_v2(self, request: web.Request) -> web.StreamResponse:
        return await self._published(request, self._issuer.discovery(self._issuer.v2(request.match_info["tenant"])))

    async def _discovery_v1(self, request: web.Request) -> web.StreamResponse:
        return await self._published(request, self._issuer.discovery(self._issuer.v1(request.match_info["tenant"])))

    async def _keys(self, request: web.Request) -> web.StreamResponse:
        return await self._published(request, self._issuer.key_set())

    async def _published(self, request: web.Request, document: dict[str, object]) -> web.StreamResponse:
        fault = self._issuer_faults.strike()
        answer = await inflict(request, fault, {}) if fault else None
        return web.json_response(document) if answer is None else answer

    async def _queues(self, _: web.Request) -> web.Response:
        return web.json_response(self._queue_counts())

    async def _mint(self, request: web.Request) -> web.Response:
        try:
            wanted = TokenRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return _bad_request(error)
        return web.json_response({"access_token": self._issuer.mint(wanted)})

    async def _put_flow(self, request: web.Request) -> web.Response:
        try:
            patch = _PATCH.validate_json(await request.read())
            definition = self._flows.put(request.match_info["name"], patch)
        except ValidationError as error:
            return _bad_request(error)
        return web.json_response(definition.model_dump(mode="json"))

    async def _calls(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            return web.json_response({"flow": name, "calls": self._flows.calls(name)})
        except KeyError:
            return _error(404, "WorkflowNotFound", f"There is no flow '{name}'.")

    async def _get_identity(self, _: web.Request) -> web.Response:
        return web.json_response({"calls": self._identity.calls})

    async def _put_identity(self, request: web.Request) -> web.Response:
        try:
            patch = IdentityPatch.model_validate_json(await request.read(), by_name=True, by_alias=False)
        except ValidationError as error:
            return _bad_request(error)
        self._identity.change(patch)
        return await self._get_identity(request)

    async def _put_issuer(self, request: web.Request) -> web.Response:
        try:
            patch = IssuerPatch.model_validate_json(await request.read(), by_name=True, by_alias=False)
        except ValidationError as error:
            return _bad_request(error)
        if patch.faults is not None:
            self._issuer_faults.put(patch.faults)
        if patch.rotate:
            self._issuer.rotate(keep_old=patch.keep_old_keys)
        return web.json_response(self._issuer.key_set())


def _bad_request(error: ValidationError) -> web.Response:
    return _error(400, "InvalidRequest", explain(error))


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
