"""The administration: queues are made, changed, deleted and listed over HTTP, in ATOM XML.

What is answered is what the live service was recorded to answer (see `emulator.admin.atom`), except for entity tags:
the service writes them without quotation marks, here they are as RFC 9110 has them.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote
from xml.etree.ElementTree import Element

from aiohttp import web

from servicebus_emulator.admin import atom, description
from servicebus_emulator.admin.atom import CONNECT, INSTANCE, Entry, Place, tag
from servicebus_emulator.admin.requests import body_of, not_allowed, problem
from servicebus_emulator.servicebus import duration
from servicebus_emulator.servicebus.access import Authorizer, Right
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue import Queue
from servicebus_emulator.servicebus.entities.queue_settings import MAX_NAME_CHARACTERS, QueueSettings
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, NOT_FOUND, NOT_IMPLEMENTED, ServiceBusError

NAMESPACE = "sbemulatorns"
"""The namespace's name, as in the official emulator."""
MAX_BODY_BYTES = 256 * 1024
MAX_PAGE = 100
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.~/-]*[A-Za-z0-9])?", re.ASCII)
_TAGS = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"\s*')
_VERSION = re.compile(r"\d{4}-\d{2}", re.ASCII)
_ENTRY = "application/atom+xml;type=entry;charset=utf-8"
_FEED = "application/atom+xml;type=feed;charset=utf-8"


class Entities:
    """The routes. `$Resources`, `$namespaceinfo` and entities by name."""

    def __init__(self, broker: Broker, authorizer: Authorizer) -> None:
        self._broker = broker
        self._authorizer = authorizer

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """`path` is decoded, without the first slash. Raises `ServiceBusError`."""
        known = path.lower().strip("/")
        self._authorizer.authorize(request.headers.get("Authorization"), path, Right.MANAGE)
        version = request.query.get("api-version")
        if version is not None and _VERSION.fullmatch(version) is None:
            raise ServiceBusError(ARGUMENT_ERROR, f"api-version: '{version}' is none; write it as in 2021-05.")
        if "/subscriptions" in known:
            raise ServiceBusError(NOT_IMPLEMENTED, f"'{path}': there are no topics, subscriptions and rules here.")
        if known.startswith("$"):
            return self._told(request, known)
        methods: Mapping[str, Callable[[web.Request, str], Awaitable[web.Response]]]
        methods = {"GET": self._get, "PUT": self._put, "DELETE": self._delete}
        method = methods.get(request.method)
        return await method(request, path.strip("/")) if method else not_allowed(request, ", ".join(methods))

    # --- the namespace -------------------------------------------------------------------------------------------

    def _told(self, request: web.Request, path: str) -> web.Response:
        if request.method != "GET":
            return not_allowed(request, "GET")
        if path == "$namespaceinfo":
            return self._namespace(request)
        if path == "$resources/queues":
            return self._page(request, "Queues", self._broker.entities())
        if path == "$resources/topics":
            return self._page(request, "Topics", [])  # it is true that there are none
        raise ServiceBusError(NOT_FOUND, f"'{path}': listed are $Resources/queues and $Resources/topics.")

    def _namespace(self, request: web.Request) -> web.Response:
        created = duration.format_timestamp(self._broker.created_at)
        told = {
            "CreatedTime": created,
            "MessagingSKU": "Standard",
            "ModifiedTime": created,
            "Name": NAMESPACE,
            "NamespaceType": "Messaging",
        }
        inner = "".join(atom.text(name, value) for name, value in told.items())
        content = tag("NamespaceInfo", inner, {"xmlns": CONNECT, "xmlns:i": INSTANCE})
        one = Entry(NAMESPACE, "$namespaceinfo", content, self._now())
        return _answer(200, atom.entry(one, _place(request)), _ENTRY)

    def _page(self, request: web.Request, title: str, queues: list[Queue]) -> web.Response:
        skip, top = _number(request, "$skip", 0, least=0), _number(request, "$top", MAX_PAGE, least=1)
        top, place = min(top, MAX_PAGE), _place(request, paging=False)
        shown = [self._entry(request, queue, at_work=True) for queue in queues[skip : skip + top]]
        more = skip + top < len(queues)
        here = f"{request.scheme}://{request.host}{request.path_qs}"
        version = request.query.get("api-version")
        query = f"?$skip={skip + top}&$top={top}" + (f"&api-version={quote(version)}" if version else "")
        following = f"{place.base}/$Resources/{title.lower()}{query}" if more else None
        return _answer(200, atom.feed(title, shown, place, here=here, following=following, updated=self._now()), _FEED)

    # --- one entity ----------------------------------------------------------------------------------------------

    async def _get(self, request: web.Request, name: str) -> web.Response:
        queue = self._find(name)
        if queue is None:
            return _answer(200, atom.nothing_here(self._now()), _FEED)
        return self._document(request, queue, 200, at_work=True)

    async def _put(self, request: web.Request, name: str) -> web.Response:
        given = atom.description(await body_of(request, MAX_BODY_BYTES))
        queue = self._find(name)
        if "If-Match" in request.headers:
            return self._update(request, name, queue, given)
        if queue is not None and "If-None-Match" in request.headers:
            return problem(412, f"There is a queue '{name}' already.")
        _require_name(name)
        made = self._broker.create(_rules(request, name, given, None))
        return self._document(request, made, 201, at_work=False)

    def _update(self, request: web.Request, name: str, queue: Queue | None, given: Element) -> web.Response:
        if queue is None:
            raise ServiceBusError(NOT_FOUND, f"There is no queue '{name}' to change; make it without If-Match.")
        if not _matches(request.headers["If-Match"], _etag(queue)):
            return _changed_since(queue)
        self._broker.update(_rules(request, name, given, queue.settings))
        return self._document(request, queue, 200, at_work=False)

    async def _delete(self, request: web.Request, name: str) -> web.Response:
        queue = self._find(name)
        if queue is None:
            raise ServiceBusError(NOT_FOUND, f"There is no queue '{name}'.")
        if not _matches(request.headers.get("If-Match", "*"), _etag(queue)):
            return _changed_since(queue)
        self._broker.delete(name)
        return web.Response(status=200)

    def _find(self, name: str) -> Queue | None:
        """An entity of its own; dead-letter queues are none."""
        try:
            queue = self._broker.find(name)
        except ServiceBusError:
            return None
        return None if queue.dead_letters is None else queue

    def _document(self, request: web.Request, queue: Queue, status: int, *, at_work: bool) -> web.Response:
        answer = _answer(status, atom.entry(self._entry(request, queue, at_work=at_work), _place(request)), _ENTRY)
        answer.headers["ETag"] = _etag(queue)
        return answer

    def _entry(self, request: web.Request, queue: Queue, *, at_work: bool) -> Entry:
        version, name = request.query.get("api-version"), queue.settings.name
        content = description.describe(queue, api_version=version, host=request.host, at_work=at_work)
        created, updated = duration.format_timestamp(queue.created_at), duration.format_timestamp(queue.updated_at)
        return Entry(name, name, content, updated, created)

    def _now(self) -> str:
        return duration.format_timestamp(self._broker.now())


def _place(request: web.Request, *, paging: bool = True) -> Place:
    """`paging`: with the whole query; else with the API version alone, as an entry in a list has it."""
    version = request.query.get("api-version")
    alone = f"?api-version={quote(version)}" if version else ""
    query = f"?{request.query_string}" if paging and request.query_string else alone
    return Place(f"{request.scheme}://{request.host}", query, NAMESPACE)


def _rules(request: web.Request, name: str, given: Element, before: QueueSettings | None) -> QueueSettings:
    return description.settings(name, given, before, api_version=request.query.get("api-version"))


def _answer(status: int, document: str, content_type: str) -> web.Response:
    return web.Response(status=status, body=document.encode(), headers={"Content-Type": content_type})


def _require_name(name: str) -> None:
    if len(name) > MAX_NAME_CHARACTERS or _NAME.fullmatch(name) is None or "//" in name:
        text = "letters, digits, '.', '-', '_', '~' and '/', the first and the last of them a letter or digit"
        raise ServiceBusError(ARGUMENT_ERROR, f"A queue's name has up to {MAX_NAME_CHARACTERS} characters: {text}.")


def _number(request: web.Request, name: str, default: int, *, least: int) -> int:
    value = request.query.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= least):
        raise ServiceBusError(ARGUMENT_ERROR, f"{name}: '{value}' must be a whole number from {least} on.")
    return int(value)


def _etag(queue: Queue) -> str:
    """It speaks of the description, not of the counts: so a GET is never answered that nothing has changed."""
    return f'"{int(queue.updated_at * 10_000_000)}"'


def _matches(condition: str, etag: str) -> bool:
    """RFC 9110, section 13.1.1: strongly, so a weak tag never does. Raises `ServiceBusError` if it is malformed."""
    if condition.strip() == "*":
        return True
    tags = condition.split(",")
    if not all(_TAGS.fullmatch(one) for one in tags):
        raise ServiceBusError(ARGUMENT_ERROR, "If-Match: must be * or entity tags in quotation marks.")
    return etag in (one.strip() for one in tags)


def _changed_since(queue: Queue) -> web.Response:
    return problem(412, f"'{queue.settings.name}' has changed since; get it again.")
