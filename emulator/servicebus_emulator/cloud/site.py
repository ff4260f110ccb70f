"""All that is answered over HTTP: managed identity, token issuer, flows, and the control of their faults.

Control, while it runs, in JSON with the field names of `emulator.definitions`:

- `POST /emulator/token`                 mint a user's token, right or wrong (`TokenRequest`)
- `PUT /emulator/flows/{name}`           merge fields into a flow's definition, or make a flow (`FlowDefinition`)
- `GET /emulator/flows/{name}/calls`     the calls a flow has seen, and what became of them (`emulator.runs.Call`)
- `PUT /emulator/identity`, `GET` of it  faults and token lifetime; how many calls there were (`IdentityPatch`)
- `PUT /emulator/issuer`                 faults of discovery and key set, key rotation (`IssuerPatch`)
- `POST /emulator/tokens/wrong`          every token to be refused, by name (`TokenRequest`: what is right)
- `PUT /emulator/dataverse`, `GET` of it merge fields into the organization; its users' IDs (`DataverseDefinition`)
- `GET /emulator/dataverse/calls`        what was asked of Dataverse, and for whom (`emulator.dataverse.Record`)
- `PUT /emulator/servicebus`, `GET` of it trouble for the Service Bus (`control_api.ControlRequest`)
- `POST /emulator/dataverse/post`        put a native message on a queue (`Post`)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence

from aiohttp import web
from pydantic import JsonValue, TypeAdapter, ValidationError

from servicebus_emulator.cloud import urls
from servicebus_emulator.cloud.dataverse.execution_context import NativeRequest, build
from servicebus_emulator.cloud.dataverse.web_api import API as DATAVERSE_API
from servicebus_emulator.cloud.dataverse.web_api import DataverseHost
from servicebus_emulator.cloud.definitions import Definition, Fault, HttpDefinition
from servicebus_emulator.cloud.entra.bad_tokens import wrong_tokens
from servicebus_emulator.cloud.entra.issuer import Issuer, TokenRequest
from servicebus_emulator.cloud.entra.managed_identity import IdentityEndpoint, IdentityPatch
from servicebus_emulator.cloud.faults import Faults, inflict
from servicebus_emulator.cloud.flows.host import FlowHost
from servicebus_emulator.cloud.flows.trigger_guard import TriggerGuard
from servicebus_emulator.servicebus.entities.message import Message
from servicebus_emulator.servicebus.errors import ServiceBusError
from servicebus_emulator.validation import explain

MAX_REQUEST_BYTES = 100 * 1024 * 1024
"""What a flow takes (Microsoft Learn, "Limits of automated, scheduled, and instant flows": message size)."""

QueueCounts = Mapping[str, Mapping[str, int]]
Enqueue = Callable[[str, Message], object]
"""Puts a message on the queue of this name. Raises `ServiceBusError`."""
_STOP_SECONDS = 0.5
_PATCH: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class IssuerPatch(Definition):
    """What `PUT /emulator/issuer` changes: faults of discovery and key set, and the keys themselves."""

    faults: tuple[Fault, ...] | None = None
    rotate: bool = False
    """Sign with a new key from now on."""
    keep_old_keys: bool = True
    """Whether a rotation goes on publishing the keys before it."""
    key_issuer: str | None = None
    """Publish the keys for this issuer alone, with `{tenantid}` for any tenant; null: for all."""


class Post(NativeRequest):
    """What `POST /emulator/dataverse/post` puts on which queue."""

    queue: str = "dataverse-requests"


class Site:
    """The parts, their routes, and the handlers too small for a module of their own.

    `url` is where it is served, without a slash, and `identity_header` the secret of the managed identity. `routes` are
    answered, too.
    """

    def __init__(
        self,
        url: str,
        definition: HttpDefinition,
        identity_header: str,
        *,
        queue_counts: Callable[[], QueueCounts],
        enqueue: Enqueue,
        routes: Sequence[web.RouteDef],
    ) -> None:
        self._queue_counts = queue_counts
        self._enqueue = enqueue
        self._routes = routes
        self.issuer = Issuer(url, definition.identity)
        self._issuer_faults = Faults()
        self.identity = IdentityEndpoint(self.issuer, definition.identity, identity_header)
        self.flows = FlowHost(definition.flows, TriggerGuard(self.issuer, definition.identity))
        self.dataverse = DataverseHost(f"{url}{urls.DATAVERSE}", definition.dataverse, self.issuer, definition.identity)

    async def serve(self, listener: socket.socket, first: socket.socket | None) -> None:
        """Answer the first caller, who was let in already, and all that come after; until cancelled."""
        # A caller that hangs up ends its handler, or faults that hang would pile up.
        runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_SECONDS
        )
        await runner.setup()
        assert runner.server is not None  # noqa: S101 - it was set up
        try:
            if first is not None:
                await asyncio.get_running_loop().connect_accepted_socket(runner.server, first)
            await web.SockSite(runner, listener).start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_REQUEST_BYTES)
        application.add_routes(self._routes)
        tenant = r"/{tenant:[0-9a-fA-F-]{36}}"
        application.add_routes(
            [
                web.get("/msi/token", self.identity.token),
                web.get(f"{tenant}/v2.0/.well-known/openid-configuration", self._discovery_v2),
                web.get(f"{tenant}/.well-known/openid-configuration", self._discovery_v1),
                web.get(f"{tenant}/discovery/v2.0/keys", self._keys),
                web.route("*", f"{urls.FLOWS}/{{name}}/triggers/manual/paths/invoke", self.flows.invoke),
                web.get(f"{urls.FLOWS}/{{name}}/runs/{{run_id}}/operations/{{operation_id}}", self.flows.poll),
                web.get(f"{DATAVERSE_API}/{{rest:.*}}", self.dataverse.answer),
                web.get("/emulator/queues", self._queues),
                web.post("/emulator/token", self._mint),
                web.put("/emulator/flows/{name}", self._put_flow),
                web.get("/emulator/flows/{name}/calls", self._calls),
                web.get("/emulator/identity", self._get_identity),
                web.put("/emulator/identity", self._put_identity),
                web.put("/emulator/issuer", self._put_issuer),
                web.post("/emulator/tokens/wrong", self._mint_wrong),
                web.get("/emulator/dataverse", self._get_dataverse),
                web.put("/emulator/dataverse", self._put_dataverse),
                web.get("/emulator/dataverse/calls", self._questions),
                web.post("/emulator/dataverse/post", self._post_native),
            ]
        )
        return application

    async def _discovery_v2(self, request: web.Request) -> web.StreamResponse:
        return await self._published(request, self.issuer.discovery(self.issuer.v2(request.match_info["tenant"])))

    async def _discovery_v1(self, request: web.Request) -> web.StreamResponse:
        return await self._published(request, self.issuer.discovery(self.issuer.v1(request.match_info["tenant"])))

    async def _keys(self, request: web.Request) -> web.StreamResponse:
        return await self._published(request, self.issuer.key_set())

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
        return web.json_response({"access_token": self.issuer.mint(wanted)})

    async def _mint_wrong(self, request: web.Request) -> web.Response:
        try:
            wanted = TokenRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return _bad_request(error)
        return web.json_response(wrong_tokens(self.issuer, wanted))

    async def _put_flow(self, request: web.Request) -> web.Response:
        try:
            patch = _PATCH.validate_json(await request.read())
            definition = self.flows.put(request.match_info["name"], patch)
        except ValidationError as error:
            return _bad_request(error)
        return web.json_response(definition.model_dump(mode="json"))

    async def _calls(self, request: web.Request) -> web.Response:
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
        self.identity.change(patch)
        return await self._get_identity(request)

    async def _put_issuer(self, request: web.Request) -> web.Response:
        try:
            patch = IssuerPatch.model_validate_json(await request.read(), by_name=True, by_alias=False)
        except ValidationError as error:
            return _bad_request(error)
        if patch.faults is not None:
            self._issuer_faults.put(patch.faults)
        if "key_issuer" in patch.model_fields_set:
            self.issuer.restrict_keys(patch.key_issuer)
        if patch.rotate:
            self.issuer.rotate(keep_old=patch.keep_old_keys)
        return web.json_response(self.issuer.key_set())

    async def _get_dataverse(self, _: web.Request) -> web.Response:
        return web.json_response({"url": self.dataverse.url} | self.dataverse.organization.shown())

    async def _put_dataverse(self, request: web.Request) -> web.Response:
        try:
            self.dataverse.put(_PATCH.validate_json(await request.read()))
        except ValidationError as error:
            return _bad_request(error)
        return await self._get_dataverse(request)

    async def _questions(self, _: web.Request) -> web.Response:
        return web.json_response({"calls": self.dataverse.calls()})

    async def _post_native(self, request: web.Request) -> web.Response:
        try:
            wanted = Post.model_validate_json(await request.read())
            self._enqueue(wanted.queue, build(wanted, self.dataverse.organization).for_broker())
        except ValidationError as error:
            return _bad_request(error)
        except ServiceBusError as error:
            return _error(400, "InvalidRequest", str(error))
        return web.json_response({"queue": wanted.queue}, status=201)


def _bad_request(error: ValidationError) -> web.Response:
    return _error(400, "InvalidRequest", explain(error))


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
