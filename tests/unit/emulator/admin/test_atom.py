"""What is written is XML, whatever is in it; what is read is refused with a reason, whatever it is."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.admin.atom import ATOM, Entry, Place, description, entry, feed, text
from servicebus_emulator.servicebus.errors import ServiceBusError

PLACE = Place("http://localhost", "?a=<&b", "sbemulatorns")


def parsed(document: str) -> ElementTree.Element:
    return ElementTree.fromstring(document)  # noqa: S314 - our own


@given(st.text())
def test_any_text_is_written_as_xml(anything: str) -> None:
    element = parsed(text("a", anything, {"b": anything}))
    for told in (element.text or "", element.get("b")):
        assert told is not None
        assert "\ud800" not in told


def test_a_feed_tells_of_the_next_page_by_a_second_link() -> None:
    one = Entry("a b", "a b", "<x/>", "2021-04-19T17:23:06Z")
    document = feed("Queues", [one], PLACE, here="here?$skip=0", following="next?$skip=1", updated="now")
    links = parsed(document).findall(f"{{{ATOM}}}link")
    assert [(link.get("rel"), link.get("href")) for link in links] == [
        ("self", "here?$skip=0"),
        ("next", "next?$skip=1"),
    ]


def test_an_entrys_id_is_a_url() -> None:
    document = entry(Entry("a/b c", "a/b c", "<x/>", "now"), PLACE)
    assert parsed(document).findtext(f"{{{ATOM}}}id") == "http://localhost/a/b%20c?a=<&b"


@pytest.mark.parametrize("prefix", ["", "\ufeff", '<?xml version="1.0" encoding="utf-16"?>'])
def test_a_description_is_found_whatever_is_before_it(prefix: str) -> None:
    body = f'{prefix}<n:entry xmlns:n="{ATOM}"><n:updated/><n:content><Thing>ü</Thing></n:content></n:entry>'
    found = description(body.encode())
    assert (found.tag, found.text) == ("Thing", "ü")


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_breaks_nothing(body: bytes) -> None:
    with pytest.raises(ServiceBusError, match="The request body"):
        description(body)


def test_entities_are_not_expanded() -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    body = f'<!DOCTYPE l [<!ENTITY l0 "l">{lol}]><entry xmlns="{ATOM}"><content><a>&l9;</a></content></entry>'
    with pytest.raises(ServiceBusError, match="document type"):
        description(body.encode())
