"""The calls of the Web API that read and write rows.

Sources: Microsoft Learn, "Create a table row using the Web API", "Update and delete table rows using the Web API",
"Perform conditional operations using the Web API", "Use an alternate key to reference a record".
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

from aiohttp import web
from pydantic import JsonValue

from servicebus_emulator.cloud.dataverse import odata, queries
from servicebus_emulator.cloud.dataverse.members import Member, Members, Rights, no_access
from servicebus_emulator.cloud.dataverse.payload import Payload, convert, parse_object, parse_payload, require_columns
from servicebus_emulator.cloud.dataverse.queries import Query
from servicebus_emulator.cloud.dataverse.table_definitions import SYSTEM_USERS
from servicebus_emulator.cloud.dataverse.tables import Row, Table, Tables, Values
from servicebus_emulator.cloud.dataverse.web_api_errors import (
    BAD_REQUEST,
    DUPLICATE_KEY_VALUES,
    DUPLICATE_ROW,
    NO_SUCH_KEY_VALUES,
    VERSION_MISMATCH,
    WebApiError,
    empty_response,
    invalid_payload,
    json_response,
    no_such_row,
    not_emulated,
)

_BROKEN_KEY_CHARACTERS = frozenset("/<>*%&:\\?")
_ANY = "*"


@dataclass(frozen=True, slots=True)
class RowKey:
    """The key of a URL: the row's ID, or the values of an alternate key."""

    row_id: UUID | None
    values: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class RowRequest:
    """A parsed request for a table or a row of it."""

    method: str
    table: Table
    key: RowKey | None
    query: Query
    preferences: Mapping[str, str]
    if_match: str | None
    if_none_match: str | None


class TableCalls:
    """Carries out the calls for the rows of all tables."""

    def __init__(self, api_url: str, tables: Tables, members: Callable[[], Members]) -> None:
        """`api_url` is the URL of the Web API, version included, without a trailing slash."""
        self._url = api_url
        self._tables = tables
        self._members = members

    def parse(self, request: web.Request, segment: str, literals: Mapping[str, str]) -> RowRequest | None:
        """Return the request for a row or a table; None if the segment names no table. Raise `WebApiError`."""
        table = self._tables.by_set(segment.partition("(")[0])
        if table is None:
            return None
        key = _key(odata.call(segment, literals), table) if "(" in segment else None
        raw_query = "&".join(part for part in request.rel_url.raw_query_string.split("&") if not _is_alias(part))
        return RowRequest(
            request.method,
            table,
            key,
            queries.parse_query(raw_query, table),
            queries.preferences(request.headers.getall("Prefer", ())),
            request.headers.get("If-Match"),
            request.headers.get("If-None-Match"),
        )

    def carry_out(self, request: RowRequest, rights: Rights, body: bytes) -> web.Response:
        """Return the answer. Raise `WebApiError`."""
        if request.table.name == SYSTEM_USERS.logical_name and request.method != "GET":
            raise not_emulated("writing users; PUT /emulator/dataverse defines them")
        match request.method, request.key:
            case "GET", None:
                return self._list(request, rights)
            case "GET", key if key is not None:
                return self._read(request, rights, self._require(request.table, key))
            case "POST", None:
                return self._create(request, rights, self._payload(request.table, body), None)
            case "PATCH", key if key is not None:
                return self._upsert(request, rights, key, self._payload(request.table, body))
            case "DELETE", key if key is not None:
                return self._delete(request, rights, self._require(request.table, key))
        raise WebApiError(405, BAD_REQUEST, f"The method {request.method[:20]} is not allowed for this resource.")

    # --- reading -------------------------------------------------------------------------------------------------

    def _list(self, request: RowRequest, rights: Rights) -> web.Response:
        table, query = request.table, request.query
        depth = rights.require(table.privilege("Read"), table.name)
        found = [row for row in self._rows(table) if rights.sees(row, depth) and query.where(row.values)]
        ordered = queries.sort(found, query, table)[: query.top]
        end = query.skip + queries.page_size(request.preferences)
        body: dict[str, object] = {"@odata.context": self._context(table, query)}
        if query.count:
            body["@odata.count"] = len(found)
        body["value"] = [_rendered(row, query, table) for row in ordered[query.skip : end]]
        if end < len(ordered):
            # The service's token is an opaque cookie; the emulator's is the number of rows before the page.
            body["@odata.nextLink"] = f"{self._url}/{table.set_name}?{_without_page(query)}$skiptoken={end}"
        return json_response(body)

    def _read(self, request: RowRequest, rights: Rights, row: Row) -> web.Response:
        rights.require_row(request.table, "Read", row)
        if request.if_none_match in {row.etag, _ANY}:
            return web.Response(status=304, headers={"OData-Version": "4.0", "ETag": row.etag})
        return self._representation(request, row, 200)

    def _representation(self, request: RowRequest, row: Row, status: int) -> web.Response:
        context = {"@odata.context": f"{self._context(request.table, request.query)}/$entity"}
        body = context | _rendered(row, request.query, request.table)
        return json_response(body, status, {"ETag": row.etag})

    def _context(self, table: Table, query: Query) -> str:
        selected = f"({','.join(query.selected)})" if query.selected else ""
        return f"{self._url}/$metadata#{table.set_name}{selected}"

    # --- writing -------------------------------------------------------------------------------------------------

    def create(self, table: Table, rights: Rights, document: Mapping[str, JsonValue]) -> Row:
        """Create a row from the body of a create, and return it. Raise `WebApiError`."""
        return self._insert(table, rights, parse_payload(table, document, self._resolve), None)

    def _create(self, request: RowRequest, rights: Rights, payload: Payload, row_id: UUID | None) -> web.Response:
        return self._written(request, rights, self._insert(request.table, rights, payload, row_id), 201)

    def _insert(self, table: Table, rights: Rights, payload: Payload, row_id: UUID | None) -> Row:
        values = payload.values
        depth = rights.require(table.privilege("Create"), table.name)
        own = values.pop(table.id_column, None)
        row_id = row_id or (UUID(str(own)) if own is not None else uuid.uuid4())
        user = str(rights.user.row)
        values["ownerid"] = values.get("ownerid") or user
        if depth == 0 and values["ownerid"] != user:
            raise no_access(rights.user, "Create", row_id, table.name)
        self._require_bindings(rights, table, payload)
        require_columns(table, values)
        if self._tables.get(table, row_id) is not None:
            raise WebApiError(412, DUPLICATE_ROW, "A record with matching key values already exists.")
        self._require_unique(table, values, row_id)
        created = {"createdby": user, "createdonbehalfby": _delegate(rights)}
        return self._tables.put(table, row_id, values | created | _modified(rights))

    def _upsert(self, request: RowRequest, rights: Rights, key: RowKey, payload: Payload) -> web.Response:
        table = request.table
        row = self._find(table, key)
        if row is None:
            if request.if_match is not None:
                raise _absent(table, key)
            # No document says whether an upsert that creates needs the privilege to write as well.
            payload.values |= {name: value for name, value in key.values.items() if name not in payload.values}
            return self._create(request, rights, payload, key.row_id)
        if request.if_none_match == _ANY:
            raise WebApiError(412, DUPLICATE_ROW, "A record with matching key values already exists.")
        _require_version(request.if_match, row)
        return self._update(request, rights, row, payload)

    def _update(self, request: RowRequest, rights: Rights, row: Row, payload: Payload) -> web.Response:
        table, values = request.table, payload.values
        rights.require_row(table, "Write", row)
        values.pop(table.id_column, None)
        if values.get("ownerid", row.values.get("ownerid")) != row.values.get("ownerid"):
            rights.require_row(table, "Assign", row)
        self._require_bindings(rights, table, payload)
        self._require_unique(table, row.values | values, row.id)
        return self._written(request, rights, self._tables.put(table, row.id, values | _modified(rights)), 200)

    def _delete(self, request: RowRequest, rights: Rights, row: Row) -> web.Response:
        rights.require_row(request.table, "Delete", row)
        _require_version(request.if_match, row)
        self._tables.delete(request.table, row.id)
        return empty_response()

    def _written(self, request: RowRequest, rights: Rights, row: Row, status: int) -> web.Response:
        headers = {"OData-EntityId": f"{self._url}/{request.table.set_name}({row.id})"}
        if request.preferences.get("return") != "representation":
            return empty_response(headers)
        rights.require_row(request.table, "Read", row)
        response = self._representation(request, row, status)
        response.headers.update(headers | {"Preference-Applied": "return=representation"})
        return response

    def _payload(self, table: Table, body: bytes) -> Payload:
        return parse_payload(table, parse_object(body, table.set_name), self._resolve)

    def _require_bindings(self, rights: Rights, table: Table, payload: Payload) -> None:
        """Raise `WebApiError` unless the rights allow the lookups: Append to the row, and AppendTo their rows."""
        if payload.bound_tables:
            rights.require(table.privilege("Append"), table.name)
        for name in sorted(payload.bound_tables):
            target = self._tables.by_name(name)
            if target is not None:
                rights.require(target.privilege("AppendTo"), target.name)

    def _require_unique(self, table: Table, values: Values, row_id: UUID) -> None:
        for key, columns in table.definition.keys.items():
            found = {name: values.get(name) for name in columns}
            if None in found.values():
                continue  # a key with an empty column is not unique
            other = self._tables.find(table, found)
            if other is not None and other.id != row_id:
                text = (
                    f"A record that has the attribute values {', '.join(columns)} already exists. The entity key {key}"
                )
                message = f"{text} on entity {table.name} requires that this set of attributes contains unique values."
                raise WebApiError(412, DUPLICATE_KEY_VALUES, message)

    # --- finding -------------------------------------------------------------------------------------------------

    def _rows(self, table: Table) -> Iterator[Row]:
        if table.name == SYSTEM_USERS.logical_name:
            return (_user_row(member) for member in self._members().all())
        return self._tables.rows(table)

    def _find(self, table: Table, key: RowKey) -> Row | None:
        if key.row_id is None:
            return self._tables.find(table, key.values)
        if table.name == SYSTEM_USERS.logical_name:
            member = self._members().by_row(key.row_id)
            return None if member is None else _user_row(member)
        return self._tables.get(table, key.row_id)

    def _require(self, table: Table, key: RowKey) -> Row:
        row = self._find(table, key)
        if row is None:
            raise _absent(table, key)
        return row

    def _resolve(self, link: str, target: str) -> UUID:
        """Return the row that a link such as `/systemusers(GUID)` leads to. Raise `WebApiError` if there is none."""
        table = self._tables.by_name(target)
        segment = link.removeprefix(self._url).removeprefix("/")
        set_name, _, rest = segment.partition("(")
        if table is None or set_name != table.set_name or not rest.endswith(")"):
            raise invalid_payload(target, f"The link '{link[:200]}' leads to no row of '{target}'.")
        try:
            key = _key(odata.call(segment, {}), table)
        except odata.MalformedUrl as error:
            raise invalid_payload(target, str(error)) from None
        return self._require(table, key).id


def _key(call: odata.FunctionCall, table: Table) -> RowKey:
    """Return the key of a URL. Raise `MalformedUrl` or `WebApiError`."""
    match call.arguments:
        case [argument] if not call.named:
            return RowKey(odata.guid(argument.strip()), {})
    names = set(call.named)
    if len(call.named) < len(call.arguments) or names not in map(set, table.definition.keys.values()):
        # No document shows the code of this answer.
        text = f"The specified key attributes are not a defined key for the {table.name} entity"
        raise WebApiError(400, BAD_REQUEST, text)
    return RowKey(None, {name: _key_value(table, name, literal) for name, literal in call.named.items()})


def _key_value(table: Table, name: str, literal: str) -> JsonValue:
    column = table.columns[name]
    value: JsonValue = literal
    if literal.startswith("'"):
        value = odata.string(literal)
        # Microsoft Learn, "Define alternate keys": GET and PATCH do not work for such values. The answer is not shown.
        if broken := _BROKEN_KEY_CHARACTERS.intersection(str(value)):
            text = f"A potentially dangerous Request.Path value was detected from the client ({min(broken)})."
            raise WebApiError(400, BAD_REQUEST, text)
    elif column.type in {"Integer", "Choice"} and literal.removeprefix("-").isdecimal():
        value = int(literal)
    return convert(table, column, value)


def _absent(table: Table, key: RowKey) -> WebApiError:
    if key.row_id is not None:
        return no_such_row(table.name, key.row_id)
    text = f"A record with the specified key values does not exist in {table.name} entity"
    return WebApiError(404, NO_SUCH_KEY_VALUES, text)


def _require_version(if_match: str | None, row: Row) -> None:
    if if_match not in {None, _ANY, row.etag}:
        text = "The version of the existing record doesn't match the RowVersion property provided."
        raise WebApiError(412, VERSION_MISMATCH, text)


def _rendered(row: Row, query: Query, table: Table) -> dict[str, object]:
    columns: dict[str, object] = {column.property_name: row.values.get(column.name) for column in query.select}
    return {"@odata.etag": row.etag, **columns, table.id_column: str(row.id)}


def _user_row(member: Member) -> Row:
    # Everybody owns their own row, so that the depth Basic of prvReadUser covers it.
    return Row(member.row, 1, member.columns() | {"ownerid": str(member.row)})


def _modified(rights: Rights) -> Values:
    return {"modifiedby": str(rights.user.row), "modifiedonbehalfby": _delegate(rights)}


def _delegate(rights: Rights) -> str | None:
    return None if rights.delegate is None else str(rights.delegate.row)


def _is_alias(part: str) -> bool:
    return part.startswith(("@", "%40"))


def _without_page(query: Query) -> str:
    return "".join(f"{name}={quote(value)}&" for name, value in query.given.items() if name != "$skiptoken")
