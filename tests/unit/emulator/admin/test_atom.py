"""ATOM documents: output is well-formed XML for any text; invalid input is refused with a reason."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.admin.atom import ATOM, Entry, RequestContext, entry, feed, read_description, text
from servicebus_emulator.servicebus.errors import ServiceBusError

CONTEXT = RequestContext("http://localhost", "?a=<&b", "sbemulatorns")


def parsed(document: str) -> ElementTree.Element:
    return ElementTree.fromstring(document)  # noqa: S314 - the emulator's own output


@given(st.text())
def test_any_text_is_written_as_well_formed_xml(anything: str) -> None:
    element = parsed(text("a", anything, {"b": anything}))
    for written in (element.text or "", element.get("b")):
        assert written is not None
        assert "\ud800" not in written


def test_a_feed_links_to_its_next_page() -> None:
    item = Entry("a b", "a b", "<x/>", "2021-04-19T17:23:06Z")
    document = feed("Queues", [item], CONTEXT, url="here?$skip=0", next_url="next?$skip=1", updated="now")
    links = parsed(document).findall(f"{{{ATOM}}}link")
    assert [(link.get("rel"), link.get("href")) for link in links] == [
        ("self", "here?$skip=0"),
        ("next", "next?$skip=1"),
    ]


def test_the_id_of_an_entry_is_a_url() -> None:
    document = entry(Entry("a/b c", "a/b c", "<x/>", "now"), CONTEXT)
    assert parsed(document).findtext(f"{{{ATOM}}}id") == "http://localhost/a/b%20c?a=<&b"


@pytest.mark.parametrize("prefix", ["", "\ufeff", '<?xml version="1.0" encoding="utf-16"?>'])
def test_a_description_is_read_with_any_prolog_before_it(prefix: str) -> None:
    body = f'{prefix}<n:entry xmlns:n="{ATOM}"><n:updated/><n:content><Thing>ü</Thing></n:content></n:entry>'
    element = read_description(body.encode())
    assert (element.tag, element.text) == ("Thing", "ü")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_with_a_reason(body: bytes) -> None:
    with pytest.raises(ServiceBusError, match="The request body"):
        read_description(body)


def test_entities_are_not_expanded() -> None:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    body = f'<!DOCTYPE l [<!ENTITY l0 "l">{entities}]><entry xmlns="{ATOM}"><content><a>&l9;</a></content></entry>'
    with pytest.raises(ServiceBusError, match="document type"):
        read_description(body.encode())
