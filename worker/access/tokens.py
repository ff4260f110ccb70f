"""The `entra` authority: the claim is an RS256 token for the worker's own audience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import jwt
from jwt import PyJWK
from pydantic import SecretStr

from worker.access.principal import Principal
from worker.errors import Refused

ALGORITHMS = ["RS256"]
MAX_TOKEN_CHARACTERS = 32_768
_REQUIRED = ["exp", "nbf", "iss", "aud", "tid", "oid"]

Claims = Mapping[str, Any]  # a token's payload: whatever its issuer wrote


@dataclass(frozen=True, slots=True)
class Proven:
    """Who sent a claim, and what else its token says."""

    principal: Principal
    claims: Claims = field(repr=False)


class SigningKeys(Protocol):
    """Where an issuer's signing keys are had."""

    async def find(self, issuer: str, kid: str) -> PyJWK | None:
        """The issuer's key `kid`, None if it has no such key. Raises `NotKnownYet` if that cannot be told."""
        ...


class EntraAuthority:
    """Tells from a claim who the sender is.

    `exp` and `nbf` are judged at the time the broker enqueued the request, give or take `skew_seconds`: a request may
    wait in the queue longer than a token lives, and the broker's clock is the one the sender cannot set.
    """

    def __init__(
        self,
        keys: SigningKeys,
        *,
        authority: str,
        tenants: Sequence[str],
        audiences: Sequence[str],
        skew_seconds: int,
    ) -> None:
        self._keys = keys
        self._issuers = {f"{authority}/{tenant}/v2.0": tenant for tenant in tenants}
        self._audiences = list(audiences)
        self._skew = skew_seconds

    async def authenticate(self, claim: SecretStr | None, enqueued_at: datetime) -> Principal:
        """The proven sender; see `prove`."""
        return (await self.prove(claim, enqueued_at)).principal

    async def prove(self, claim: SecretStr | None, enqueued_at: datetime) -> Proven:
        """The proven sender. Raises `Refused` for a claim that does not hold, `NotKnownYet` if keys cannot be had."""
        if claim is None:
            raise Refused("claim_missing", "The request carries no claim; send a token for this worker in 'claim'.")
        claims = await self._verified(claim.get_secret_value())
        self._check_times(claims, enqueued_at.timestamp())
        return Proven(_principal(claims), claims)

    async def _verified(self, token: str) -> Claims:
        issuer, kid = self._named_signer(token)
        key = await self._keys.find(issuer, kid)
        if key is None:
            raise Refused("claim_invalid", "The claim is signed by a key its issuer does not publish.")
        try:
            claims: Claims = jwt.decode(
                token,
                key.key,
                algorithms=ALGORITHMS,
                audience=self._audiences,
                issuer=issuer,
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.InvalidAudienceError:
            raise Refused("claim_audience", "The claim is a token for another audience than this worker.") from None
        except jwt.MissingRequiredClaimError as error:
            raise Refused("claim_invalid", f"The claim lacks '{error.claim}'.") from None
        except jwt.PyJWTError:
            raise Refused("claim_invalid", "The claim's signature does not hold.") from None
        if claims["tid"] != self._issuers[issuer]:
            raise Refused("claim_issuer", "The claim's tenant is not its issuer's.")
        return claims

    def _named_signer(self, token: str) -> tuple[str, str]:
        """Issuer and key id as the token names them: unproven, only good for finding the key to prove them with."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise Refused("claim_invalid", f"The claim is longer than {MAX_TOKEN_CHARACTERS} characters.")
        try:
            unproven = jwt.decode_complete(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Refused("claim_invalid", "The claim is not a signed JSON web token.") from None
        header, issuer = unproven["header"], unproven["payload"].get("iss")
        if header.get("alg") not in ALGORITHMS:
            raise Refused("claim_invalid", f"The claim is not signed by {' or '.join(ALGORITHMS)}.")
        if not isinstance(issuer, str) or issuer not in self._issuers:
            raise Refused("claim_issuer", "The claim is from another issuer than this worker's tenants.")
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise Refused("claim_invalid", "The claim does not name its signing key ('kid').")
        return issuer, kid

    def _check_times(self, claims: Claims, at: float) -> None:
        exp, nbf = claims["exp"], claims["nbf"]
        if not all(isinstance(moment, int | float) and not isinstance(moment, bool) for moment in (exp, nbf)):
            raise Refused("claim_invalid", "The claim's 'exp' and 'nbf' must be numbers.")
        if at > exp + self._skew:
            raise Refused("claim_expired", "The claim had expired when the request was sent; send it with a fresh one.")
        if at < nbf - self._skew:
            raise Refused("claim_not_yet_valid", "The claim was not valid yet when the request was sent.")


def _principal(claims: Claims) -> Principal:
    roles = claims.get("roles", [])
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise Refused("claim_invalid", "The claim's 'roles' must be a list of names.")
    if not isinstance(claims["oid"], str):
        raise Refused("claim_invalid", "The claim's 'oid' must be text.")
    return Principal(
        tenant=claims["tid"],
        oid=claims["oid"],
        kind="user" if "scp" in claims else "app",
        roles=frozenset(roles),
        authority="entra",
    )
