"""ATOM XML as Service Bus speaks it: entries and feeds out, an entry with a description in.

Forms and order of the elements are those in the recorded answers of the live service that azure-sdk-for-python keeps
for its tests. Output is written by hand: @azure/service-bus reads the prefix of a namespace off the element that
declares it, and ElementTree declares all of them at the root.
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
"""What no XML document may hold, not even escaped."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing and its description; `content` is XML, times are ISO 8601, `query` begins with `?` or is empty."""

    title: str
    path: str
    content: str
    updated: str
    published: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the answer is given: `base` is scheme and authority, `query` the request's, with `?`, or empty."""

    base: str
    query: str
    namespace: str

    def url(self, path: str) -> str:
        """Of a thing in the namespace."""
        return f"{self.base}/{quote(path)}{self.query}"


def tag(name: str, inner: str, attributes: Mapping[str, str] | None = None) -> str:
    """An element around XML."""
    written = "".join(f" {key}={quoteattr(_clean(value))}" for key, value in (attributes or {}).items())
    return f"<{name}{written}>{inner}</{name}>"


def text(name: str, value: str, attributes: Mapping[str, str] | None = None) -> str:
    """An element around text."""
    return tag(name, escape(_clean(value)), attributes)


def entry(one: Entry, place: Place) -> str:
    """A document of one entry."""
    return _entry(one, place, place.url(one.path), {"xmlns": ATOM})


def feed(title: str, entries: Sequence[Entry], place: Place, *, here: str, following: str | None, updated: str) -> str:
    """A list of entries; `here` is its URL, `following` that of the next page, if there is one."""
    links = [("self", here)] + ([("next", following)] if following else [])
    return tag(
        "feed",
        text("title", title, {"type": "text"})
        + text("id", here)
        + text("updated", updated)
        + "".join(tag("link", "", {"rel": rel, "href": url}) for rel, url in links)
        + "".join(_entry(one, place, f"../{quote(one.path)}{place.query}", {"xml:base": here}) for one in entries),
        {"xmlns": ATOM},
    )


def nothing_here(updated: str) -> str:
    """What the service says, with status 200, where there is no entity: SDKs take a feed without entries for that."""
    title = text("title", "Publicly Listed Services", {"type": "text"})
    return tag("feed", title + text("updated", updated), {"xmlns": ATOM})


def error(status: int, detail: str) -> str:
    """The document of an error."""
    return tag("Error", text("Code", str(status)) + text("Detail", detail))


def description(body: bytes) -> ElementTree.Element:
    """The description in an entry, such as `QueueDescription`. Raises `ServiceBusError` if there is none.

    A document type is refused before anything is parsed: nothing can be expanded.
    """
    root = _root(body)
    if root.tag != f"{{{ATOM}}}entry":
        raise _bad(f"must be an 'entry' in the namespace {ATOM}")
    content = root.find(f"{{{ATOM}}}content")
    if content is None or len(content) != 1:
        raise _bad("the entry must have one 'content' with one description in it")
    return content[0]


def _root(body: bytes) -> ElementTree.Element:
    try:
        document = body.decode("utf-8-sig")
        if "<!DOCTYPE" in document:
            raise _bad("it must have no document type")
        return ElementTree.fromstring(document)  # noqa: S314 - without a document type there are no entities
    except UnicodeDecodeError:
        raise _bad("it must be UTF-8") from None
    except ElementTree.ParseError as error:
        raise _bad(f"it is no XML: {error}") from None


def _bad(what: str) -> ServiceBusError:
    return ServiceBusError(ARGUMENT_ERROR, f"The request body: {what}.")


def _entry(one: Entry, place: Place, href: str, attributes: Mapping[str, str]) -> str:
    return tag(
        "entry",
        text("id", place.url(one.path))
        + text("title", one.title, {"type": "text"})
        + (text("published", one.published) if one.published else "")
        + text("updated", one.updated)
        + tag("author", text("name", place.namespace))
        + tag("link", "", {"rel": "self", "href": href})
        + tag("content", one.content, {"type": "application/xml"}),
        attributes,
    )


def _clean(value: str) -> str:
    return _FORBIDDEN.sub("\ufffd", value)
