"""The worker's tokens in the answers of flows: in other spellings, and of another time than the present token."""

from __future__ import annotations

import base64
import html
import json
import re
import time
import urllib.parse
from collections.abc import Callable
from functools import partial

import pytest

from flow_worker.flows.answer import decode_body

OID = "8f2b4f0a-9f6b-4b43-8a7e-0c1d2e3f4a5b"
AUDIENCE = "https://service.flow.microsoft.com/"


def jwt(signature: str, **claims: object) -> str:
    parts = [{"typ": "JWT", "alg": "RS256"}, {"aud": AUDIENCE, "oid": OID, **claims}]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join((*encoded, signature * 8))


PRESENT, EARLIER = jwt("s1gn-ture_", uti="b"), jwt("e4rlier-_Z", uti="aa", iat=1)
KINDS = ["application/json", "text/plain", "application/octet-stream"]


def plain(output: object) -> str:
    text = output if isinstance(output, str) else json.dumps(output)
    if re.fullmatch(r"[A-Za-z0-9+/=]+", text):
        text += base64.b64decode(text + "==").decode("latin-1").replace("\0", "")
    return text


def leaks(output: object, token: str) -> bool:
    """Return whether the token can be read, also behind base64 and escapes."""
    text = plain(output)
    inner = [base64.b64decode(run + "==").decode("latin-1") for run in re.findall(r"[\w+/]{40,}", text)]
    texts = [text, *inner, html.unescape(urllib.parse.unquote(text))]
    texts += [re.sub(r"\\+u00(..)", lambda escape: chr(int(escape[1], 16)), text) for text in texts]
    _, payload, signature = token.split(".")
    return any(payload in text for text in texts) and any(signature in text for text in texts)


def after(before: int, token: str) -> str:
    return base64.b64encode(b"x" * before + token.encode()).decode()


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda token: token,
    "bearer": lambda token: f"Authorization: Bearer {token}",
    "JSON in JSON": lambda token: json.dumps(json.dumps({"a": token})),
    "escapes": lambda token: "".join(f"\\u{ord(letter):04X}" for letter in token),
    "escapes of escapes": lambda token: "".join(f"\\\\u{ord(letter):04x}" for letter in token),
    "some escapes": lambda token: token.replace("-", "\\u002d").replace("e", "\\u0065"),
    "percent": lambda token: "".join(f"%{ord(letter):02x}" for letter in token),
    "some percent": lambda token: token.replace(".", "%2E").replace("-", "%2d").replace("_", "%5F"),
    "percent of percent": lambda token: "".join(f"%25{ord(letter):02X}" for letter in token),
    "HTML": lambda token: "".join(f"&#{ord(letter)};" for letter in token),
    "HTML in hexadecimal": lambda token: "".join(f"&#x{ord(letter):x};" for letter in token),
    **{f"base64 after {before}": partial(after, before) for before in range(3)},
    "base64 behind letters": lambda token: "xyz" + base64.b64encode(token.encode()).decode(),
    "base64 of a document": lambda token: base64.b64encode(json.dumps({"h": f"Bearer {token}"}).encode()).decode(),
}


@pytest.mark.parametrize("token", [PRESENT, EARLIER], ids=["the present token", "an earlier token"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_token_of_the_worker_passes(spelling: str, kind: str, token: str) -> None:
    spelled = SPELLINGS[spelling](token)
    for body in (json.dumps({"a": spelled, "b": "ä€"}), f'{{"a": "{spelled}", "a": 1}}', spelled):
        content = decode_body(body.encode(), kind, token=PRESENT)
        assert not leaks(content.output, token)


@pytest.mark.parametrize("codec", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_token_is_masked_in_the_bytes_of_any_character_set(codec: str, kind: str) -> None:
    content = decode_body(f"x {EARLIER} y".encode(codec), kind, token=PRESENT)
    output = str(content.output)
    body = base64.b64decode(output) if content.encoding == "base64" else output.encode()
    assert body == "x *** y".encode(codec)


def test_the_parts_of_an_earlier_token_are_useless() -> None:
    header, payload, signature = EARLIER.split(".")
    content = decode_body(json.dumps([header, payload, signature]).encode(), KINDS[0], token=PRESENT)
    assert content.output == [header, "***", signature]


@pytest.mark.parametrize("claims", [{"oid": OID.replace("8", "9")}, {"aud": "https://vault.azure.net"}], ids=str)
def test_a_token_of_another_identity_or_audience_stays(claims: dict[str, str]) -> None:
    other = jwt("0ther", **claims)
    document = {"token": other, "again": base64.b64encode(other.encode()).decode(), "id": OID, "for": AUDIENCE}
    assert decode_body(json.dumps(document).encode(), KINDS[0], token=PRESENT).output == document


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_looks_like_an_escape_of_a_token_stays(kind: str) -> None:
    text = r"{a: '\u0041\u00e4 %41%2d &#45; &#39; &amp;#45; \\ %25 100%', b: 'eyJhbGciOiJSUzI1NiJ9.e30.'}"
    content = decode_body(text.encode(), kind, token=PRESENT)
    output = str(content.output)
    assert (base64.b64decode(output).decode() if content.encoding == "base64" else output) == text


def test_base64_around_a_token_stays_base64() -> None:
    document = {"$content": base64.b64encode(f'{{"h": "Bearer {PRESENT}", "n": "ä"}}'.encode()).decode()}
    output = decode_body(json.dumps(document).encode(), KINDS[0], token=PRESENT).output
    assert isinstance(output, dict)
    assert base64.b64decode(str(output["$content"])).decode() == '{"h": "Bearer ***", "n": "ä"}'


UNITS = {
    "escapes": "\\u0041",
    "half escapes": "\\u00",
    "backslashes": "\\",
    "percent signs": "%",
    "percent": "%41",
    "ampersands": "&#",
    "the token's start": PRESENT[:60] + "\\u0041",
    "tokens": "eyJabcdef. ",
    "the identity": PRESENT.split(".")[1] + " ",
    "base64": "ZXlK",
    "the end of the signature, escaped": "".join(f"%{ord(letter):02x}" for letter in PRESENT[-30:]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_the_search_for_tokens_takes_time_in_proportion_to_the_body(unit: str, kind: str) -> None:
    body = (unit * (500_000 // len(unit))).encode()
    started = time.process_time()
    decode_body(body, kind, token=PRESENT)
    assert time.process_time() - started < 2  # quadratic time would be minutes
