"""The settings of the statements with which an HTTP gateway vouches for its users' requests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from flow_worker.settings.groups import _Group

_PRIVATE = re.compile(r'PRIVATE KEY|"d"\s*:')
"""In PEM and in a JWK."""


class StatementSettings(_Group):
    """The keys of the gateway's statements: gateways sign with the private key, workers verify with the public ones.

    The settings of a worker need the public keys only.
    """

    issuer: Annotated[str, Field(min_length=1, max_length=100)] = "flow-gateway"
    lifetime_seconds: Annotated[int, Field(ge=10, le=3600)] = 120
    key_path: Path = Path("flow-worker-gateway-key.pem")
    signing_key: SecretStr | None = Field(default=None, description="gateway: private key, PEM or JWK, curve P-256")
    signing_key_file: Path | None = Field(default=None, description="gateway: file with the private key")
    public_keys: str | None = Field(default=None, description="worker: public keys of the gateways, JWK Set or PEM")
    public_keys_file: Path | None = Field(default=None, description="worker: file with the public keys")
    refresh_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0

    @property
    def has_signing_key(self) -> bool:
        """Whether the settings name the private key, so that the gateway makes none."""
        return self.signing_key is not None or self.signing_key_file is not None

    @property
    def has_fixed_public_keys(self) -> bool:
        """Whether no file of public keys is read while the worker runs.

        Settings with the private key alone are those of a gateway and a worker on one machine.
        """
        return self.public_keys is not None or (self.public_keys_file is None and self.has_signing_key)

    @property
    def public_path(self) -> Path:
        """The file in which the worker finds the public keys, unless the settings hold the keys themselves."""
        return self.public_keys_file or Path(f"{self.key_path}.public.json")

    @field_validator("public_keys", mode="after")
    @classmethod
    def _require_public_keys(cls, value: str | None) -> str | None:
        """Public keys are no secret, so `flow-worker check` prints them."""
        if value is not None and _PRIVATE.search(value):
            raise ValueError(
                "holds a private key; leave it with the gateway, and set the output of: openssl pkey -pubout"
            )
        return value

    @model_validator(mode="after")
    def _require_one_place_of_each_key(self) -> Self:
        for name, key, file in (
            ("signing_key", self.signing_key, self.signing_key_file),
            ("public_keys", self.public_keys, self.public_keys_file),
        ):
            if key is not None and file is not None:
                raise ValueError(f"{name} and {name}_file are both set; keep one of them, and remove the other")
        return self
