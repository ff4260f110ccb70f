"""The control API of Dataverse: the organization, the rows of its tables, and messages on a queue.

- `PUT`, `GET /emulator/dataverse`                  merge fields into the organization (`DataverseDefinition`)
- `GET /emulator/dataverse/calls`                   the calls that reached the Web API (`WebApiCall`)
- `POST /emulator/dataverse/post`                   put a message of Dataverse's on a queue (`NativeMessagePost`)
- `POST /emulator/dataverse/sessions`               sign a user in: the answer sets the session's cookie
- `PUT /emulator/dataverse/webresources/{name}`     put a file of a page
- `GET`, `DELETE /emulator/dataverse/rows/{set}`    list or delete all rows of a table, appnotifications too
- `PUT`, `DELETE /emulator/dataverse/rows/{set}/{id}`   put a row without a check of privileges, or delete it
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from aiohttp import web
from pydantic import JsonValue, TypeAdapter, ValidationError

from servicebus_emulator.cloud.dataverse.custom_apis import Enqueue
from servicebus_emulator.cloud.dataverse.execution_context import NativeMessageRequest, build
from servicebus_emulator.cloud.dataverse.payload import convert
from servicebus_emulator.cloud.dataverse.tables import Row, Table, Values
from servicebus_emulator.cloud.dataverse.web_api import DataverseHost
from servicebus_emulator.cloud.dataverse.web_api_errors import WebApiError
from servicebus_emulator.cloud.fields import Definition, Name
from servicebus_emulator.servicebus.errors import ServiceBusError
from servicebus_emulator.validation import explain

_OBJECT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class NativeMessagePost(NativeMessageRequest):
    """The body of `POST /emulator/dataverse/post`: the message to build and the queue to put it on."""

    queue: str = "dataverse-requests"


class SessionPost(Definition):
    """The body of `POST /emulator/dataverse/sessions`."""

    user: Name
    """The name of one of the organization's users."""


class _InvalidValue(ValueError):
    """A row cannot have this ID or value; the message names it."""


def routes(host: DataverseHost, enqueue: Enqueue) -> Sequence[web.RouteDef]:
    """Return the routes for the web server."""
    api = _Api(host, enqueue)
    return [
        web.get("/emulator/dataverse", api.get),
        web.put("/emulator/dataverse", api.put),
        web.get("/emulator/dataverse/calls", api.get_calls),
        web.post("/emulator/dataverse/post", api.post_message),
        web.post("/emulator/dataverse/sessions", api.post_session),
        web.put("/emulator/dataverse/webresources/{name}", api.put_web_resource),
        web.get("/emulator/dataverse/rows/{set}", api.get_rows),
        web.delete("/emulator/dataverse/rows/{set}", api.delete_rows),
        web.put("/emulator/dataverse/rows/{set}/{id}", api.put_row),
        web.delete("/emulator/dataverse/rows/{set}/{id}", api.delete_rows),
    ]


class _Api:
    def __init__(self, host: DataverseHost, enqueue: Enqueue) -> None:
        self._host = host
        self._enqueue = enqueue

    async def get(self, _: web.Request) -> web.Response:
        return web.json_response({"url": self._host.url} | self._host.directory.as_json())

    async def put(self, request: web.Request) -> web.Response:
        try:
            self._host.put(_OBJECT.validate_json(await request.read()))
        except ValidationError as error:
            return _bad_request(explain(error))
        return await self.get(request)

    async def get_calls(self, _: web.Request) -> web.Response:
        return web.json_response({"calls": self._host.calls()})

    async def post_message(self, request: web.Request) -> web.Response:
        try:
            post = NativeMessagePost.model_validate_json(await request.read())
            self._enqueue(post.queue, build(post, self._host.directory).for_broker())
        except ValidationError as error:
            return _bad_request(explain(error))
        except ServiceBusError as error:
            return _bad_request(str(error))
        return web.json_response({"queue": post.queue}, status=201)

    async def post_session(self, request: web.Request) -> web.Response:
        try:
            post = SessionPost.model_validate_json(await request.read(), by_name=True, by_alias=False)
        except ValidationError as error:
            return _bad_request(explain(error))
        member = self._host.members.by_name(post.user)
        if member is None:
            return _error(404, "NoSuchUser", "The organization has no such user; PUT /emulator/dataverse defines them.")
        response = web.json_response({"user_id": str(member.row)}, status=201)
        self._host.sign_in.open_session(member.object_id, response)
        return response

    async def put_web_resource(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            self._host.web_resources.put(name, await request.read())
        except ValueError as error:
            return _bad_request(str(error))
        return web.json_response({"url": f"{self._host.url}/WebResources/{name}"}, status=201)

    async def get_rows(self, request: web.Request) -> web.Response:
        table = self._table(request)
        if table is None:
            return _no_table(request)
        return web.json_response({"rows": [_as_json(table, row) for row in self._host.tables.rows(table)]})

    async def put_row(self, request: web.Request) -> web.Response:
        table = self._table(request)
        if table is None:
            return _no_table(request)
        try:
            row_id = _row_id(request.match_info["id"])
            values = _values(table, _OBJECT.validate_json(await request.read()))
        except ValidationError as error:
            return _bad_request(explain(error))
        except _InvalidValue as error:
            return _bad_request(str(error))
        row = self._host.tables.put(table, row_id, values)
        return web.json_response(_as_json(table, row))

    async def delete_rows(self, request: web.Request) -> web.Response:
        table = self._table(request)
        if table is None:
            return _no_table(request)
        text = request.match_info.get("id")
        try:
            deleted = self._host.tables.delete(table, None if text is None else _row_id(text))
        except _InvalidValue as error:
            return _bad_request(str(error))
        return web.json_response({"deleted": deleted})

    def _table(self, request: web.Request) -> Table | None:
        return self._host.tables.by_set(request.match_info["set"])


def _row_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _InvalidValue(f"The row ID '{text[:100]}' is no GUID.") from None


def _values(table: Table, document: dict[str, JsonValue]) -> Values:
    values: Values = {}
    for name, value in document.items():
        column = table.columns.get(name)
        if column is None:
            raise _InvalidValue(f"{name}: no such column; known: {', '.join(sorted(table.columns))}")
        try:
            values[name] = convert(table, column, value)
        except WebApiError as error:
            raise _InvalidValue(f"{name}: {error.message}") from None
    return values


def _as_json(table: Table, row: Row) -> Values:
    """Return all columns by their logical names; those that were never set are null."""
    return dict.fromkeys(table.columns) | row.values


def _no_table(request: web.Request) -> web.Response:
    name = request.match_info["set"]
    return _error(404, "NoSuchTable", f"There is no table with the entity set '{name}'.")


def _bad_request(message: str) -> web.Response:
    return _error(400, "InvalidRequest", message)


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
