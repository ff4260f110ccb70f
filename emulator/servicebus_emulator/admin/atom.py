"""ATOM XML in the form of Service Bus: entries and feeds as output, an entry with a description as input.

Form and order of the elements follow the recorded responses of the live service in the tests of azure-sdk-for-python.
The code writes XML as text, because ElementTree declares all namespaces at the root. @azure/service-bus expects the
declaration of a namespace on the element that uses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, ServiceBusError

ATOM = "http://www.w3.org/2005/Atom"
CONNECT = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that an XML document may not contain, not even escaped (XML 1.0, section 2.2)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entity with its description. `content` is XML; times are ISO 8601."""

    title: str
    path: str
    content: str
    updated: str
    published: str | None = None


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The parts of a request that its response repeats in URLs.

    `base` is scheme and authority. `query` starts with `?` or is empty.
    """

    base: str
    query: str
    namespace: str

    def url(self, path: str) -> str:
        """Return the URL of an entity in the namespace."""
        return f"{self.base}/{quote(path)}{self.query}"


def tag(name: str, inner: str, attributes: Mapping[str, str] | None = None) -> str:
    """Return an element with XML in it."""
    written = "".join(f" {key}={quoteattr(_clean(value))}" for key, value in (attributes or {}).items())
    return f"<{name}{written}>{inner}</{name}>"


def text(name: str, value: str, attributes: Mapping[str, str] | None = None) -> str:
    """Return an element with text in it."""
    return tag(name, escape(_clean(value)), attributes)


def entry(item: Entry, context: RequestContext) -> str:
    """Return a document with one entry."""
    return _entry(item, context, context.url(item.path), {"xmlns": ATOM})


def feed(
    title: str, entries: Sequence[Entry], context: RequestContext, *, url: str, next_url: str | None, updated: str
) -> str:
    """Return a document with a page of entries. `url` is that of the page, `next_url` that of the next page."""
    links = [("self", url)] + ([("next", next_url)] if next_url else [])
    return tag(
        "feed",
        text("title", title, {"type": "text"})
        + text("id", url)
        + text("updated", updated)
        + "".join(tag("link", "", {"rel": rel, "href": href}) for rel, href in links)
        + "".join(
            _entry(item, context, f"../{quote(item.path)}{context.query}", {"xml:base": url}) for item in entries
        ),
        {"xmlns": ATOM},
    )


def empty_feed(updated: str) -> str:
    """Return the response for an entity that does not exist.

    The service answers with status 200 and a feed without entries; the SDKs turn this document into "not found".
    """
    title = text("title", "Publicly Listed Services", {"type": "text"})
    return tag("feed", title + text("updated", updated), {"xmlns": ATOM})


def error_document(status: int, detail: str) -> str:
    """Return the document of an error."""
    return tag("Error", text("Code", str(status)) + text("Detail", detail))


def read_description(body: bytes) -> ElementTree.Element:
    """Return the description in an entry, such as a `QueueDescription`. Raises `ServiceBusError` if there is none.

    A document type is refused before parsing, so that no entity is expanded ("billion laughs").
    """
    root = _root(body)
    if root.tag != f"{{{ATOM}}}entry":
        raise _invalid(f"must be an 'entry' in the namespace {ATOM}")
    content = root.find(f"{{{ATOM}}}content")
    if content is None or len(content) != 1:
        raise _invalid("the entry must have one 'content' with one description in it")
    return content[0]


def _root(body: bytes) -> ElementTree.Element:
    try:
        document = body.decode("utf-8-sig")
        if "<!DOCTYPE" in document:
            raise _invalid("it must have no document type")
        return ElementTree.fromstring(document)  # noqa: S314 - without a document type there are no entities
    except UnicodeDecodeError:
        raise _invalid("it must be UTF-8") from None
    except ElementTree.ParseError as error:
        raise _invalid(f"it is no XML: {error}") from None


def _invalid(fault: str) -> ServiceBusError:
    return ServiceBusError(ARGUMENT_ERROR, f"The request body: {fault}.")


def _entry(item: Entry, context: RequestContext, href: str, attributes: Mapping[str, str]) -> str:
    return tag(
        "entry",
        text("id", context.url(item.path))
        + text("title", item.title, {"type": "text"})
        + (text("published", item.published) if item.published else "")
        + text("updated", item.updated)
        + tag("author", text("name", context.namespace))
        + tag("link", "", {"rel": "self", "href": href})
        + tag("content", item.content, {"type": "application/xml"}),
        attributes,
    )


def _clean(value: str) -> str:
    return _FORBIDDEN.sub("\ufffd", value)
