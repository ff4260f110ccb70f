"""Every token that must be refused, by name, though all else about it is right: what attackers and mistakes make.

Sources: RFC 8725 (JSON Web Token Best Current Practices), RFC 7515 sections 4.1.11, 5.2 and 10.12, RFC 7519 sections 4
and 7.2. The issuer's own key signs wherever the signature is not what is wrong, so only the named mistake is there to
refuse it for.
"""

from __future__ import annotations

from collections.abc import Mapping

from servicebus_emulator.cloud.entra.bad_tokens.claims import claims
from servicebus_emulator.cloud.entra.bad_tokens.headers import headers
from servicebus_emulator.cloud.entra.bad_tokens.mint import Mint
from servicebus_emulator.cloud.entra.bad_tokens.shapes import shapes
from servicebus_emulator.cloud.entra.issuer import Issuer, TokenRequest


def wrong_tokens(issuer: Issuer, wanted: TokenRequest | None = None) -> Mapping[str, str]:
    """Wrong variants of the token that is `wanted`: Ada's, with the role `Quotes.Create`, unless it is given."""
    wanted = wanted or TokenRequest(user="ada", roles=("Quotes.Create",))
    mint = Mint(issuer, issuer.claims(wanted))
    return headers(mint) | claims(mint) | shapes(mint)
