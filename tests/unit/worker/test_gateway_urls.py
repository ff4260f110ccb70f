"""`gateway.public_url` stands in `Location`: it holds nothing that breaks a header field or a URL."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from flow_worker.settings import GatewaySettings


@pytest.mark.parametrize(
    "url",
    [
        " https://flows.contoso.com",
        "https://flows.contoso.com\r\nX-A: b",
        "https://flows.con\ttoso.com",
        "https://a b",
        "https://é.com",
    ],
)
def test_a_public_url_that_no_header_field_can_hold_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="absolute URL"):
        GatewaySettings(public_url=url)


def test_a_public_url_has_no_slash_at_its_end() -> None:
    assert GatewaySettings(public_url="https://flows.contoso.com/api/").public_url == "https://flows.contoso.com/api"
