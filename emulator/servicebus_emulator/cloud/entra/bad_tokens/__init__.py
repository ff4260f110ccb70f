"""Builds tokens that a validator must refuse, by name: the variants that attackers and mistakes produce.

Sources: RFC 8725 (JSON Web Token Best Current Practices), RFC 7515 sections 4.1.11, 5.2 and 10.12, RFC 7519 sections 4
and 7.2. Each token has exactly the defect in its name. Where the signature is not the defect, the issuer's own key
signs the token. So a validator that accepts a token lacks exactly that check.
"""

from __future__ import annotations

from collections.abc import Mapping

from servicebus_emulator.cloud.entra.bad_tokens.claims import tokens_with_bad_claims
from servicebus_emulator.cloud.entra.bad_tokens.headers import tokens_with_bad_headers
from servicebus_emulator.cloud.entra.bad_tokens.malformed import malformed_tokens
from servicebus_emulator.cloud.entra.bad_tokens.mint import Mint
from servicebus_emulator.cloud.entra.issuer import Issuer, TokenRequest


def mint_bad_tokens(issuer: Issuer, request: TokenRequest | None = None) -> Mapping[str, str]:
    """Return the bad variants of the requested token, by name. Without a request: Ada's, with role `Quotes.Create`."""
    request = request or TokenRequest(user="ada", roles=("Quotes.Create",))
    mint = Mint(issuer, issuer.claims(request))
    return tokens_with_bad_headers(mint) | tokens_with_bad_claims(mint) | malformed_tokens(mint)
