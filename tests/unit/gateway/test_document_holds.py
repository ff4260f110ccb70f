"""The gateway answers as its OpenAPI document says: documented statuses and media types, bodies that match."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.support.http_gateway import running_http_gateway

ODD = ["", " ", "null", "0.5", "-1", "%00", "%F0%9F%92%A9", "a" * 300, "..", "a,b", '"', "'; drop", "<script>", "١٢"]
BODIES = [b"", b"null", b"{}", b"[]", b'"x"', b"0", b"{", b"\xff", b'{"customer":1}', b'{"a":NaN}', b"[" * 200]
TYPES = ["application/json", "application/merge-patch+json", "text/plain", "multipart/form-data", "nonsense", ""]


@dataclass(frozen=True)
class Case:
    operation: str
    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def cases(request_id: str) -> Iterator[Case]:
    start = "/v1/flows/create-quote/requests"
    for value in ODD:
        plain = value.replace("/", "").replace(".", "%2E") or "%20"
        plain = "".join(char if char.isascii() and char not in " \"'<>" else "%20" for char in plain)
        yield Case("/v1/flows/{flow}/requests", "post", f"/v1/flows/{plain}/requests")
        yield Case("/v1/flows/{flow}", "get", f"/v1/flows/{plain}")
        yield Case("/v1/requests/{id}", "get", f"/v1/requests/{plain}")
        yield Case("/v1/requests/{id}/events", "get", f"/v1/requests/{plain}/events")
        query = f"?wait={plain}"
        yield Case("/v1/flows/{flow}/requests", "post", start, query)
        yield Case("/v1/requests/{id}", "get", f"/v1/requests/{request_id}", query)
        if not value.isascii() or value.strip() != value:
            continue
        for name in ("Idempotency-Key", "Prefer", "On-Behalf-Of", "traceparent"):
            yield Case("/v1/flows/{flow}/requests", "post", start, headers={name: value})
        yield Case("/v1/flows", "get", "/v1/flows", headers={"On-Behalf-Of": value})
    for body, media_type in itertools.product(BODIES, TYPES):
        headers = {"Content-Type": media_type}
        yield Case("/v1/flows/{flow}/requests", "post", start, headers=headers, body=body)


def media_type_of(answer: httpx.Response) -> str:
    return str(answer.headers.get("Content-Type", "")).split(";")[0]


def check(document: dict[str, Any], case: Case, answer: httpx.Response) -> None:
    responses = document["paths"][case.operation][case.method]["responses"]
    assert str(answer.status_code) in responses, (case, answer.status_code, answer.text)
    assert answer.status_code < 500, (case, answer.text)
    response = responses[str(answer.status_code)]
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    content = response.get("content", {})
    if not content:
        return
    assert media_type_of(answer) in content, (case, media_type_of(answer))
    schema = content[media_type_of(answer)].get("schema")
    if schema is not None:
        Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())
    for name in response.get("headers", {}):
        assert name in answer.headers or name == "Preference-Applied", (case, name)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("user", ["ada", "bob~Other", "nobody", None])
async def test_every_answer_is_in_the_document(user: str | None) -> None:
    async with (
        running_http_gateway(max_wait_seconds=1, max_stream_seconds=1) as gateway,
        gateway.client(user) as client,
    ):
        document = json.loads((await client.get("/openapi.json")).content)
        started = await client.post("/v1/flows/create-quote/requests", json={})
        request_id = started.json().get("id", "nothing")
        count = 0
        for case in cases(request_id):
            url = f"{gateway.url}{case.path}{case.query}"
            answer = await client.request(case.method.upper(), url, headers=case.headers, content=case.body)
            check(document, case, answer)
            count += 1
        assert count > 150
        body = await gateway.finish(request_id) if user == "ada" else b""
        answer = await client.get(f"/v1/requests/{request_id}")
        check(document, Case("/v1/requests/{id}", "get", ""), answer)
        assert not body or answer.content == body
