"""The administration: create, update, delete and list queues over HTTP in ATOM XML.

Responses follow the recorded responses of the live service (see `admin.atom`), except for entity tags. The service
writes entity tags without quotation marks; the emulator follows RFC 9110.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote
from xml.etree.ElementTree import Element

from aiohttp import web

from servicebus_emulator.admin import atom, description
from servicebus_emulator.admin.atom import CONNECT, INSTANCE, Entry, RequestContext, tag
from servicebus_emulator.admin.requests import method_not_allowed, read_body, status_response
from servicebus_emulator.servicebus import duration
from servicebus_emulator.servicebus.access import Authorizer, Right
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import MAX_NAME_CHARACTERS, QueueSettings
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, NOT_FOUND, NOT_IMPLEMENTED, ServiceBusError

NAMESPACE = "sbemulatorns"
"""The name of the namespace, as in the official emulator."""
MAX_BODY_BYTES = 256 * 1024
MAX_PAGE = 100
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.~/-]*[A-Za-z0-9])?", re.ASCII)
_TAGS = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*')
_VERSION = re.compile(r"\d{4}-\d{2}", re.ASCII)
_ENTRY = "application/atom+xml;type=entry;charset=utf-8"
_FEED = "application/atom+xml;type=feed;charset=utf-8"


class Administration:
    """Handles `$Resources`, `$namespaceinfo` and queues by name."""

    def __init__(self, broker: Broker, authorizer: Authorizer) -> None:
        self._broker = broker
        self._authorizer = authorizer

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """Answer a request. `path` is decoded and has no leading slash.

        Raises `ServiceBusError` if the request is refused.
        """
        normalized = path.lower().strip("/")
        self._authorizer.authorize(request.headers.get("Authorization"), path, Right.MANAGE)
        version = request.query.get("api-version")
        if version is not None and _VERSION.fullmatch(version) is None:
            raise ServiceBusError(ARGUMENT_ERROR, f"api-version: '{version}' is none; write it as in 2021-05.")
        if "/subscriptions" in normalized:
            raise ServiceBusError(NOT_IMPLEMENTED, f"'{path}': there are no topics, subscriptions and rules here.")
        if normalized.startswith("$"):
            return self._namespace_resource(request, normalized)
        methods: Mapping[str, Callable[[web.Request, str], Awaitable[web.Response]]]
        methods = {"GET": self._get, "PUT": self._put, "DELETE": self._delete}
        method = methods.get(request.method)
        return await method(request, path.strip("/")) if method else method_not_allowed(request, ", ".join(methods))

    # --- the namespace -------------------------------------------------------------------------------------------

    def _namespace_resource(self, request: web.Request, path: str) -> web.Response:
        if request.method != "GET":
            return method_not_allowed(request, "GET")
        if path == "$namespaceinfo":
            return self._namespace(request)
        if path == "$resources/queues":
            return self._page(request, "Queues", self._broker.entities())
        if path == "$resources/topics":
            return self._page(request, "Topics", [])  # SDKs list topics too
        raise ServiceBusError(NOT_FOUND, f"'{path}': listed are $Resources/queues and $Resources/topics.")

    def _namespace(self, request: web.Request) -> web.Response:
        created = duration.format_timestamp(self._broker.created_at)
        properties = {
            "CreatedTime": created,
            "MessagingSKU": "Standard",
            "ModifiedTime": created,
            "Name": NAMESPACE,
            "NamespaceType": "Messaging",
        }
        inner = "".join(atom.text(name, value) for name, value in properties.items())
        content = tag("NamespaceInfo", inner, {"xmlns": CONNECT, "xmlns:i": INSTANCE})
        item = Entry(NAMESPACE, "$namespaceinfo", content, self._now())
        return _response(200, atom.entry(item, _context(request)), _ENTRY)

    def _page(self, request: web.Request, title: str, queues: list[Queue]) -> web.Response:
        skip, top = _number(request, "$skip", 0, minimum=0), _number(request, "$top", MAX_PAGE, minimum=1)
        top, context = min(top, MAX_PAGE), _context(request, paging=False)
        page = [self._entry(request, queue, runtime=True) for queue in queues[skip : skip + top]]
        more = skip + top < len(queues)
        url = f"{request.scheme}://{request.host}{request.path_qs}"
        version = request.query.get("api-version")
        query = f"?$skip={skip + top}&$top={top}" + (f"&api-version={quote(version)}" if version else "")
        next_url = f"{context.base}/$Resources/{title.lower()}{query}" if more else None
        return _response(200, atom.feed(title, page, context, url=url, next_url=next_url, updated=self._now()), _FEED)

    # --- one entity ----------------------------------------------------------------------------------------------

    async def _get(self, request: web.Request, name: str) -> web.Response:
        queue = self._find(name)
        if queue is None:
            return _response(200, atom.empty_feed(self._now()), _FEED)
        return self._document(request, queue, 200, runtime=True)

    async def _put(self, request: web.Request, name: str) -> web.Response:
        requested = atom.read_description(await read_body(request, MAX_BODY_BYTES))
        queue = self._find(name)
        if "If-Match" in request.headers:
            return self._update(request, name, queue, requested)
        if queue is not None and "If-None-Match" in request.headers:
            return status_response(412, f"There is a queue '{name}' already.")
        _require_name(name)
        created = self._broker.create(_read_settings(request, name, requested, None))
        return self._document(request, created, 201, runtime=False)

    def _update(self, request: web.Request, name: str, queue: Queue | None, requested: Element) -> web.Response:
        if queue is None:
            raise ServiceBusError(NOT_FOUND, f"There is no queue '{name}' to change; make it without If-Match.")
        if not _matches(request.headers["If-Match"], _etag(queue)):
            return _changed_since(queue)
        self._broker.update(_read_settings(request, name, requested, queue.settings))
        return self._document(request, queue, 200, runtime=False)

    async def _delete(self, request: web.Request, name: str) -> web.Response:
        queue = self._find(name)
        if queue is None:
            raise ServiceBusError(NOT_FOUND, f"There is no queue '{name}'.")
        if not _matches(request.headers.get("If-Match", "*"), _etag(queue)):
            return _changed_since(queue)
        self._broker.delete(name)
        return web.Response(status=200)

    def _find(self, name: str) -> Queue | None:
        """Return a queue, or None. A dead-letter queue is not an entity of the administration."""
        try:
            queue = self._broker.find(name)
        except ServiceBusError:
            return None
        return None if queue.dead_letters is None else queue

    def _document(self, request: web.Request, queue: Queue, status: int, *, runtime: bool) -> web.Response:
        answer = _response(status, atom.entry(self._entry(request, queue, runtime=runtime), _context(request)), _ENTRY)
        answer.headers["ETag"] = _etag(queue)
        return answer

    def _entry(self, request: web.Request, queue: Queue, *, runtime: bool) -> Entry:
        version, name = request.query.get("api-version"), queue.settings.name
        content = description.describe(queue, api_version=version, host=request.host, runtime=runtime)
        created, updated = duration.format_timestamp(queue.created_at), duration.format_timestamp(queue.updated_at)
        return Entry(name, name, content, updated, created)

    def _now(self) -> str:
        return duration.format_timestamp(self._broker.now())


def _context(request: web.Request, *, paging: bool = True) -> RequestContext:
    """Return the context of a response. Entries in a list repeat only the API version of the query (`paging` False)."""
    version = request.query.get("api-version")
    version_query = f"?api-version={quote(version)}" if version else ""
    query = f"?{request.query_string}" if paging and request.query_string else version_query
    return RequestContext(f"{request.scheme}://{request.host}", query, NAMESPACE)


def _read_settings(request: web.Request, name: str, requested: Element, before: QueueSettings | None) -> QueueSettings:
    return description.read_settings(name, requested, before, api_version=request.query.get("api-version"))


def _response(status: int, document: str, content_type: str) -> web.Response:
    return web.Response(status=status, body=document.encode(), headers={"Content-Type": content_type})


def _require_name(name: str) -> None:
    if len(name) > MAX_NAME_CHARACTERS or _NAME.fullmatch(name) is None or "//" in name:
        text = "letters, digits, '.', '-', '_', '~' and '/', the first and the last of them a letter or digit"
        raise ServiceBusError(ARGUMENT_ERROR, f"A queue's name has up to {MAX_NAME_CHARACTERS} characters: {text}.")


def _number(request: web.Request, name: str, default: int, *, minimum: int) -> int:
    value = request.query.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= minimum):
        raise ServiceBusError(ARGUMENT_ERROR, f"{name}: '{value}' must be a whole number from {minimum} on.")
    return int(value)


def _etag(queue: Queue) -> str:
    """Return the entity tag of a queue's description. It excludes the counts, so GET never answers 304."""
    return f'"{int(queue.updated_at * 10_000_000)}"'


def _matches(condition: str, etag: str) -> bool:
    """Compare strongly (RFC 9110, section 13.1.1): a weak tag never matches. Raises `ServiceBusError` if malformed."""
    if condition.strip() == "*":
        return True
    tags = condition.split(",")
    if not all(_TAGS.fullmatch(item) for item in tags):
        raise ServiceBusError(ARGUMENT_ERROR, "If-Match: must be * or entity tags in quotation marks.")
    return etag in (item.strip() for item in tags)


def _changed_since(queue: Queue) -> web.Response:
    return status_response(412, f"'{queue.settings.name}' has changed since; get it again.")
