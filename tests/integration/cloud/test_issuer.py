"""The token issuer, verified by PyJWT's key client: valid tokens verify, and each bad token fails for its defect."""

import asyncio
import base64
import hmac
import uuid
from collections.abc import Mapping

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWKClient, PyJWKClientError

from servicebus_emulator.cloud.entra.definitions import TENANT_ID
from servicebus_emulator.cloud.web import Web


async def minted(web: Web, client: httpx.AsyncClient, **changes: object) -> str:
    answer = await client.post(f"{web.url}/emulator/token", json={"user": "ada"} | changes)
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    return token


def unverified(token: str) -> Mapping[str, object]:
    claims: Mapping[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


async def verified(web: Web, client: httpx.AsyncClient, token: str) -> Mapping[str, object]:
    """Return the claims after full validation: discovery, key set, signature, audience and issuer."""
    discovery = (await client.get(f"{web.issuer}/.well-known/openid-configuration")).json()
    assert discovery["issuer"] == web.issuer
    keys = PyJWKClient(discovery["jwks_uri"])
    key = await asyncio.to_thread(keys.get_signing_key_from_jwt, token)
    claims: Mapping[str, object] = jwt.decode(
        token, key, algorithms=["RS256"], audience=web.audience, issuer=web.issuer
    )
    return claims


async def test_a_users_token_verifies_and_has_object_id_and_roles(web: Web, client: httpx.AsyncClient) -> None:
    claims = await verified(web, client, await minted(web, client, roles=["Quotes.Create", "Reports.Run"]))
    assert claims["roles"] == ["Quotes.Create", "Reports.Run"]
    assert claims["tid"] == str(TENANT_ID)
    assert claims["ver"] == "2.0"
    assert uuid.UUID(str(claims["oid"])).version == 5


async def test_a_user_keeps_its_object_id_and_an_object_id_is_used_unchanged(
    web: Web, client: httpx.AsyncClient
) -> None:
    first, second, other = [
        (await verified(web, client, await minted(web, client, user=user)))["oid"] for user in ("ada", "ada", "bob")
    ]
    assert first == second != other
    assert (await verified(web, client, await minted(web, client, user=str(TENANT_ID))))["oid"] == str(TENANT_ID)


async def test_a_token_without_roles_has_no_such_claim(web: Web, client: httpx.AsyncClient) -> None:
    assert "roles" not in await verified(web, client, await minted(web, client))


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"forged": True}, jwt.InvalidSignatureError),
        ({"unknown_kid": True}, PyJWKClientError),
        ({"algorithm": "none"}, jwt.InvalidAlgorithmError),
        ({"algorithm": "HS256"}, jwt.InvalidAlgorithmError),
        ({"lifetime_seconds": -10}, jwt.ExpiredSignatureError),
        ({"not_before_offset": 600}, jwt.ImmatureSignatureError),
        ({"audience": "api://another"}, jwt.InvalidAudienceError),
        ({"issuer": "https://issuer.example/"}, jwt.InvalidIssuerError),
        ({"tenant": "11111111-2222-3333-4444-555555555555"}, jwt.InvalidIssuerError),
        ({"claims": {"aud": None}}, jwt.MissingRequiredClaimError),
    ],
)
async def test_a_bad_token_fails_for_exactly_its_defect(
    web: Web, client: httpx.AsyncClient, changes: dict[str, object], refusal: type[Exception]
) -> None:
    token = await minted(web, client, **changes)
    with pytest.raises(refusal):
        await verified(web, client, token)


async def test_claims_can_be_set_and_removed(web: Web, client: httpx.AsyncClient) -> None:
    changes = {"groups": ["g"], "oid": None, "ver": "9"}
    claims = await verified(web, client, await minted(web, client, claims=changes))
    assert claims["groups"] == ["g"]
    assert claims["ver"] == "9"
    assert "oid" not in claims


async def test_hs256_uses_the_published_key_so_that_a_confused_validator_accepts_it(
    web: Web, client: httpx.AsyncClient
) -> None:
    signed, _, signature = (await minted(web, client, algorithm="HS256")).rpartition(".")
    jwk = (await client.put(f"{web.url}/emulator/issuer", json={})).json()["keys"][0]
    public = jwt.PyJWK(jwk).key
    assert isinstance(public, RSAPublicKey)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert base64.urlsafe_b64decode(signature + "==") == hmac.digest(pem, signed.encode(), "sha256")


async def test_after_a_rotation_old_tokens_verify_while_their_key_is_published(
    web: Web, client: httpx.AsyncClient
) -> None:
    old = await minted(web, client)
    await client.put(f"{web.url}/emulator/issuer", json={"rotate": True})
    assert await verified(web, client, old)
    new = await minted(web, client)
    assert jwt.get_unverified_header(new)["kid"] != jwt.get_unverified_header(old)["kid"]
    await client.put(f"{web.url}/emulator/issuer", json={"rotate": True, "keep_old_keys": False})
    with pytest.raises(PyJWKClientError):
        await verified(web, client, old)


async def test_the_issuer_can_fail_for_a_number_of_calls(web: Web, client: httpx.AsyncClient) -> None:
    down = {"faults": [{"kind": "respond", "status": 503, "next_calls": 2}]}
    await client.put(f"{web.url}/emulator/issuer", json=down)
    url = f"{web.issuer}/.well-known/openid-configuration"
    assert [(await client.get(url)).status_code for _ in range(3)] == [503, 503, 200]


async def test_version_1_has_another_issuer_and_the_same_keys(web: Web, client: httpx.AsyncClient) -> None:
    issuer = f"{web.url}/{TENANT_ID}/"
    first = (await client.get(f"{issuer}.well-known/openid-configuration")).json()
    second = (await client.get(f"{web.issuer}/.well-known/openid-configuration")).json()
    assert first["issuer"] == issuer
    assert first["jwks_uri"] == second["jwks_uri"]


async def test_a_version_1_token_has_its_issuer_and_client_claim(web: Web, client: httpx.AsyncClient) -> None:
    claims = unverified(await minted(web, client, version="1.0"))
    assert (claims["ver"], claims["iss"]) == ("1.0", f"{web.url}/{TENANT_ID}/")
    assert {"appid", "scp"} <= set(claims)
    assert "azp" not in claims


@pytest.mark.parametrize(("version", "client_claim"), [("1.0", "appid"), ("2.0", "azp")])
async def test_an_app_only_token_has_no_user_claims(
    web: Web, client: httpx.AsyncClient, version: str, client_claim: str
) -> None:
    claims = unverified(await minted(web, client, user="plug-in", app=True, version=version, roles=["Flow.Invoke"]))
    assert (claims["idtyp"], claims["roles"]) == ("app", ["Flow.Invoke"])
    assert claims["sub"] == claims["oid"]
    assert uuid.UUID(str(claims[client_claim]))
    assert not {"scp", "name"} & set(claims)


async def test_one_published_key_belongs_to_another_issuer_and_the_others_can_be_restricted(
    web: Web, client: httpx.AsyncClient
) -> None:
    url = f"{web.url}/emulator/issuer"
    own, other = (await client.put(url, json={})).json()["keys"]
    assert "issuer" not in own
    assert other["issuer"] != web.issuer
    restricted = {"key_issuer": f"{web.url}/{{tenantid}}/v2.0", "rotate": True}
    keys = (await client.put(url, json=restricted)).json()["keys"]
    assert [key["issuer"] for key in keys] == [restricted["key_issuer"]] * 2 + [other["issuer"]]
    assert "issuer" not in (await client.put(url, json={"key_issuer": None})).json()["keys"][0]


async def test_the_bad_variants_of_any_token_are_returned_by_name(web: Web, client: httpx.AsyncClient) -> None:
    request = {"user": "grace", "roles": ["Reports.Run"], "version": "1.0"}
    answer = await client.post(f"{web.url}/emulator/tokens/bad", json=request)
    tokens = answer.json()
    assert unverified(tokens["aud_graph"])["roles"] == ["Reports.Run"]
    assert unverified(tokens["aud_graph"])["ver"] == "1.0"
    assert (await client.post(f"{web.url}/emulator/tokens/bad", json={})).status_code == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}", "user: is required"),
        ("[]", "(body): must be a JSON object"),
        ("{", "(body): Invalid JSON"),
        ('{"user": "a", "lifetime": 1}', "lifetime: no such field"),
        ('{"user": "a", "algorithm": "ES256"}', "algorithm: Input should be"),
    ],
)
async def test_the_refusal_of_a_token_request_names_the_field(
    web: Web, client: httpx.AsyncClient, body: str, message: str
) -> None:
    answer = await client.post(f"{web.url}/emulator/token", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)
