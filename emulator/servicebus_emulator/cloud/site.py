"""Routes all HTTP calls: managed identity, token issuer, flows, Dataverse, and the control API.

The control API changes the services while they run. Its bodies are JSON with the snake_case names of the definitions:

- `POST /emulator/token`                  mint a user's token, valid or not (`TokenRequest`)
- `POST /emulator/tokens/bad`             mint every bad variant of a valid token, by name (`TokenRequest`)
- `PUT /emulator/flows/{name}`            merge fields into a flow's definition, or create a flow (`FlowDefinition`)
- `GET /emulator/flows/{name}/calls`      the calls that reached a flow, and their answers (`FlowCall`)
- `PUT`, `GET /emulator/identity`         faults and token lifetime; the number of calls (`IdentityPatch`)
- `PUT /emulator/issuer`                  faults of discovery and key set, key rotation (`IssuerPatch`)
- `/emulator/dataverse/…`                 the organization and its rows (`dataverse.control_routes`)
- `PUT`, `GET /emulator/page`             the gateway and the users of the web page (`PageDefinition`)
- `PUT`, `GET /emulator/servicebus`       faults of the Service Bus (`control_api.ControlRequest`)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web
from pydantic import JsonValue, TypeAdapter, ValidationError

from servicebus_emulator.cloud import urls
from servicebus_emulator.cloud.dataverse.control_routes import routes as dataverse_control_routes
from servicebus_emulator.cloud.dataverse.custom_apis import Enqueue
from servicebus_emulator.cloud.dataverse.web_api import API_PATH as DATAVERSE_API_PATH
from servicebus_emulator.cloud.dataverse.web_api import DataverseHost
from servicebus_emulator.cloud.definitions import HttpDefinition
from servicebus_emulator.cloud.entra.bad_tokens import mint_bad_tokens
from servicebus_emulator.cloud.entra.issuer import Issuer, TokenRequest
from servicebus_emulator.cloud.entra.managed_identity import IdentityEndpoint, IdentityPatch
from servicebus_emulator.cloud.faults.definitions import Fault
from servicebus_emulator.cloud.faults.injection import inject
from servicebus_emulator.cloud.faults.schedule import FaultSchedule
from servicebus_emulator.cloud.fields import Definition
from servicebus_emulator.cloud.flows.host import FlowHost
from servicebus_emulator.cloud.flows.trigger_guard import TriggerGuard
from servicebus_emulator.cloud.page import Page
from servicebus_emulator.transport.web_callers import WebCallers
from servicebus_emulator.transport.web_guard import guard
from servicebus_emulator.validation import explain

MAX_REQUEST_BYTES = 100 * 1024 * 1024
"""A flow's limit (Microsoft Learn, "Limits of automated, scheduled, and instant flows": message size)."""

QueueCounts = Mapping[str, Mapping[str, int]]
_STOP_SECONDS = 0.5
_MERGE_PATCH: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class IssuerPatch(Definition):
    """The body of `PUT /emulator/issuer`: faults of discovery and key set, and changes of the keys."""

    faults: tuple[Fault, ...] | None = None
    rotate: bool = False
    """New tokens get a new signing key."""
    keep_old_keys: bool = True
    """A rotation keeps the old keys published."""
    key_issuer: str | None = None
    """Restricts the keys to this issuer, with `{tenantid}` for any tenant; null lifts the restriction."""


class Site:
    """The services, their routes, and the handlers of the control API."""

    def __init__(
        self,
        url: str,
        definition: HttpDefinition,
        identity_header: str,
        *,
        queue_counts: Callable[[], QueueCounts],
        enqueue: Enqueue,
        routes: Sequence[web.RouteDef],
        callers: WebCallers,
    ) -> None:
        """`url` is the server's, without a trailing slash. `identity_header` is the managed identity's secret.

        `routes` are served beside the site's own, all of them to `callers` only.
        """
        self._callers = callers
        self._queue_counts = queue_counts
        self._enqueue = enqueue
        self._routes = routes
        self.issuer = Issuer(url, definition.identity)
        self._issuer_faults: FaultSchedule[Fault] = FaultSchedule()
        self.identity = IdentityEndpoint(self.issuer, definition.identity, identity_header)
        self.page = Page(definition.page, self.issuer)
        dataverse_url = f"{url}{urls.DATAVERSE_PATH}"
        self.dataverse = DataverseHost(dataverse_url, definition.dataverse, self.issuer, definition.identity, enqueue)
        guard_of_triggers = TriggerGuard(self.issuer, definition.identity)
        self.flows = FlowHost(definition.flows, guard_of_triggers, self.dataverse.flow_runs.observe)

    async def serve(self, listener: socket.socket, first: socket.socket | None) -> None:
        """Serve the first caller, whose connection is accepted already, and all later ones, until cancelled."""
        # Without handler cancellation the handlers of `hang` faults would outlive their callers and pile up.
        runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_SECONDS
        )
        await runner.setup()
        assert runner.server is not None  # noqa: S101 - set by setup(), for the type checker
        try:
            if first is not None:
                await asyncio.get_running_loop().connect_accepted_socket(runner.server, first)
            await web.SockSite(runner, listener).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[guard(lambda: self._callers)])
        application.add_routes(self._routes)
        application.add_routes(self.page.routes())
        application.add_routes(dataverse_control_routes(self.dataverse, self._enqueue))
        tenant = r"/{tenant:[0-9a-fA-F-]{36}}"
        application.add_routes(
            [
                web.get("/msi/token", self.identity.token),
                web.get(f"{tenant}/v2.0/.well-known/openid-configuration", self._discovery_v2),
                web.get(f"{tenant}/.well-known/openid-configuration", self._discovery_v1),
                web.get(f"{tenant}/discovery/v2.0/keys", self._keys),
                web.route("*", f"{urls.FLOWS_PATH}/{{name}}/triggers/manual/paths/invoke", self.flows.invoke),
                web.get(f"{urls.FLOWS_PATH}/{{name}}/runs/{{run_id}}/operations/{{operation_id}}", self.flows.poll),
                web.get(f"{urls.DATAVERSE_PATH}/WebResources/{{name}}", self.dataverse.web_resources.answer),
                web.route("*", f"{DATAVERSE_API_PATH}/{{rest:.*}}", self.dataverse.answer),
                web.get("/emulator/queues", self._get_queues),
                web.post("/emulator/token", self._mint_token),
                web.post("/emulator/tokens/bad", self._mint_bad_tokens),
                web.put("/emulator/flows/{name}", self._put_flow),
                web.get("/emulator/flows/{name}/calls", self._get_flow_calls),
                web.get("/emulator/identity", self._get_identity),
                web.put("/emulator/identity", self._put_identity),
                web.put("/emulator/issuer", self._put_issuer),
            ]
        )
        return application

    async def _discovery_v2(self, request: web.Request) -> web.StreamResponse:
        return await self._publish(
            request, self.issuer.discovery(self.issuer.v2(request.match_info["tenant"]), _application(request))
        )

    async def _discovery_v1(self, request: web.Request) -> web.StreamResponse:
        return await self._publish(
            request, self.issuer.discovery(self.issuer.v1(request.match_info["tenant"]), _application(request))
        )

    async def _keys(self, request: web.Request) -> web.StreamResponse:
        return await self._publish(request, self.issuer.key_set(_application(request)))

    async def _publish(self, request: web.Request, document: dict[str, object]) -> web.StreamResponse:
        fault = self._issuer_faults.next_fault()
        response = await inject(request, fault, {}) if fault else None
        return web.json_response(document) if response is None else response

    async def _get_queues(self, _: web.Request) -> web.Response:
        return web.json_response(self._queue_counts())

    async def _mint_token(self, request: web.Request) -> web.Response:
        try:
            token_request = TokenRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return _bad_request(error)
        return web.json_response({"access_token": self.issuer.mint(token_request)})

    async def _mint_bad_tokens(self, request: web.Request) -> web.Response:
        try:
            token_request = TokenRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return _bad_request(error)
        return web.json_response(mint_bad_tokens(self.issuer, token_request))

    async def _put_flow(self, request: web.Request) -> web.Response:
        try:
            patch = _MERGE_PATCH.validate_json(await request.read())
            definition = self.flows.put(request.match_info["name"], patch)
        except ValidationError as error:
            return _bad_request(error)
        return web.json_response(definition.model_dump(mode="json"))

    async def _get_flow_calls(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            return web.json_response({"flow": name, "calls": self.flows.calls(name)})
        except KeyError:
            return _error(404, "WorkflowNotFound", f"There is no flow '{name}'.")

    async def _get_identity(self, _: web.Request) -> web.Response:
        return web.json_response({"calls": self.identity.calls})

    async def _put_identity(self, request: web.Request) -> web.Response:
        try:
            patch = IdentityPatch.model_validate_json(await request.read(), by_name=True, by_alias=False)
        except ValidationError as error:
            return _bad_request(error)
        self.identity.apply(patch)
        return await self._get_identity(request)

    async def _put_issuer(self, request: web.Request) -> web.Response:
        try:
            patch = IssuerPatch.model_validate_json(await request.read(), by_name=True, by_alias=False)
        except ValidationError as error:
            return _bad_request(error)
        if patch.faults is not None:
            self._issuer_faults.replace(patch.faults)
        # null has a meaning here, so the presence of the field decides. The restriction comes before the rotation,
        # because the new key inherits the restriction.
        if "key_issuer" in patch.model_fields_set:
            self.issuer.restrict_keys(patch.key_issuer)
        if patch.rotate:
            self.issuer.rotate(keep_old=patch.keep_old_keys)
        return web.json_response(self.issuer.key_set())


def _application(request: web.Request) -> str | None:
    """Return the client ID whose own signing keys a caller asks for."""
    return request.query.get("appid")


def _bad_request(error: ValidationError) -> web.Response:
    return _error(400, "InvalidRequest", explain(error))


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
