"""One web server for all that is HTTP: managed identity, token issuer, flows, and the control of their faults.

Control, while it runs, in JSON with the field names of `emulator.definitions`:

- `POST /emulator/token`                 mint a user's token, right or wrong (`TokenRequest`)
- `PUT /emulator/flows/{name}`           merge fields into a flow's definition, or make a flow (`FlowDefinition`)
- `GET /emulator/flows/{name}/calls`     the calls a flow has seen, and what became of them (`emulator.runs.Call`)
- `PUT /emulator/identity`, `GET` of it  faults and token lifetime; how many calls there were (`IdentityPatch`)
- `PUT /emulator/issuer`                 faults of discovery and key set, key rotation (`IssuerPatch`)
- `POST /emulator/tokens/wrong`          every token to be refused, by name (`TokenRequest`: what is right)
- `PUT /emulator/dataverse`, `GET` of it merge fields into the organization; its users' IDs (`DataverseDefinition`)
- `GET /emulator/dataverse/calls`        what was asked of Dataverse, and for whom (`emulator.dataverse.Record`)
- `PUT /emulator/servicebus`, `GET` of it trouble for the Service Bus (`emulator.servicebus_faults_api.ServiceBusPatch`)
- `POST /emulator/dataverse/post`        put a native message on a queue (`Post`)
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from aiohttp import web
from pydantic import JsonValue, TypeAdapter, ValidationError

from emulator.admission import Doorman
from emulator.config import explain
from emulator.dataverse import API as DATAVERSE_API
from emulator.dataverse import PATH as DATAVERSE_PATH
from emulator.dataverse import DataverseHost
from emulator.definitions import Definition, Fault, HttpDefinition
from emulator.faults import Faults, inflict
from emulator.flows import FlowHost
from emulator.identity import IdentityEndpoint, IdentityPatch
from emulator.issuer import Issuer, TokenRequest
from emulator.native import NativeRequest, build
from emulator.servicebus.errors import NOT_FOUND, ServiceBusError
from emulator.servicebus.message import Message
from emulator.wrong import wrong_tokens

MAX_REQUEST_BYTES = 100 * 1024 * 1024
"""What a flow takes (Microsoft Learn, "Limits of automated, scheduled, and instant flows": message size)."""

QueueCounts = Mapping[str, Mapping[str, int]]
Enqueue = Callable[[str, Message], object]
"""Puts a message on the queue of this name. Raises `ServiceBusError`."""
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
    key_issuer: str | None = None
    """Publish the keys for this issuer alone, with `{tenantid}` for any tenant; null: for all."""


class Post(NativeRequest):
    """What `POST /emulator/dataverse/post` puts on which queue."""

    queue: str = "dataverse-requests"


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
    dataverse_url: str
    """The organization's, without a slash; its tokens' audience, too."""
    flows: FlowHost
    dataverse: DataverseHost
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
    enqueue: Enqueue | None = None,
    routes: Sequence[web.RouteDef] = (),
) -> AsyncIterator[Web]:
    """Serve until the block ends; port 0 picks a free one. Raises `OSError` if the port cannot be had.

    `queue_counts` is what `GET /emulator/queues` answers: each queue's messages by state. `enqueue` takes the messages
    of Dataverse; without it there is no queue for them. `routes` are answered, too.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listener:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        site = _Site(f"http://{shown}:{listener.getsockname()[1]}", definition, queue_counts, enqueue)
        # A caller that hangs up ends its handler, or faults that hang would pile up.
        runner = web.AppRunner(
            site.application(routes), access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_SECONDS
        )
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield site.web
        finally:
            await runner.cleanup()


class _Site:
    """The routes, and the handlers too small for a module of their own."""

    def __init__(
        self,
        url: str,
        definition: HttpDefinition,
        queue_counts: Callable[[], QueueCounts],
        enqueue: Enqueue | None,
    ) -> None:
        self._queue_counts = queue_counts
        self._enqueue = enqueue or _no_queue
        self._issuer = Issuer(url, definition.identity)
        self._issuer_faults = Faults()
        self._identity = IdentityEndpoint(self._issuer, definition.identity)
        self._flows = FlowHost(definition.flows, Doorman(self._issuer, definition.identity))
        dataverse_url = f"{url}{DATAVERSE_PATH}"
        self._dataverse = DataverseHost(dataverse_url, definition.dataverse, self._issuer, definition.identity)
        self.web = Web(
            url=url,
            identity_endpoint=f"{url}/msi/token",
            identity_header=self._identity.header,
            tenant_id=definition.identity.tenant_id,
            issuer=self._issuer.v2(definition.identity.tenant_id),
            audience=definition.identity.worker_audience,
            flows_url=f"{url}{_FLOWS}",
            dataverse_url=dataverse_url,
            flows=self._flows,
            dataverse=self._dataverse,
            identity=self._identity,
            tokens=self._issuer,
        )

    def application(self, routes: Sequence[web.RouteDef]) -> web.Application:
        application = web.Application(client_max_size=MAX_REQUEST_BYTES)
        application.add_routes(routes)
        tenant = r"/{tenant:[0-9a-fA-F-]{36}}"
        application.add_routes(
            [
                web.get("/msi/token", self._identity.token),
                web.get(f"{tenant}/v2.0/.well-known/openid-configuration", self._discovery_v2),
                web.get(f"{tenant}/.well-known/openid-configuration", self._discovery_v1),
                web.get(f"{tenant}/discovery/v2.0/keys", self._keys),
                web.route("*", f"{_FLOWS}/{{name}}/triggers/manual/paths/invoke", self._flows.invoke),
                web.get(f"{_FLOWS}/{{name}}/runs/{{run_id}}/operations/{{operation_id}}", self._flows.poll),
                web.get(f"{DATAVERSE_API}/{{rest:.*}}", self._dataverse.answer),
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

    async def _mint_wrong(self, request: web.Request) -> web.Response:
        try:
            wanted = TokenRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return _bad_request(error)
        return web.json_response(wrong_tokens(self._issuer, wanted))

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
        if "key_issuer" in patch.model_fields_set:
            self._issuer.restrict_keys(patch.key_issuer)
        if patch.rotate:
            self._issuer.rotate(keep_old=patch.keep_old_keys)
        return web.json_response(self._issuer.key_set())

    async def _get_dataverse(self, _: web.Request) -> web.Response:
        return web.json_response({"url": self._dataverse.url} | self._dataverse.organization.shown())

    async def _put_dataverse(self, request: web.Request) -> web.Response:
        try:
            self._dataverse.put(_PATCH.validate_json(await request.read()))
        except ValidationError as error:
            return _bad_request(error)
        return await self._get_dataverse(request)

    async def _questions(self, _: web.Request) -> web.Response:
        return web.json_response({"calls": self._dataverse.calls()})

    async def _post_native(self, request: web.Request) -> web.Response:
        try:
            wanted = Post.model_validate_json(await request.read())
            self._enqueue(wanted.queue, build(wanted, self._dataverse.organization).for_broker())
        except ValidationError as error:
            return _bad_request(error)
        except ServiceBusError as error:
            return _error(400, "InvalidRequest", str(error))
        return web.json_response({"queue": wanted.queue}, status=201)


def _no_queue(queue: str, _: Message) -> None:
    raise ServiceBusError(NOT_FOUND, f"There is no broker here, and so no queue '{queue}'.")


def _bad_request(error: ValidationError) -> web.Response:
    return _error(400, "InvalidRequest", explain(error))


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
