"""Finds values that the template and the documentation have in place of real ones."""

from __future__ import annotations

from urllib.parse import urlsplit

from flow_worker.settings import Settings

_NOBODY = "00000000-0000-0000-0000-000000000000"
_ENVIRONMENT = "0123456789abcdef0123456789abcd"
"""The Power Platform environment of the template's flow."""


def placeholders(settings: Settings) -> list[str]:
    """Return the name of each setting that still has a placeholder."""
    values = [
        ("servicebus.namespace", settings.servicebus.namespace),
        ("identity.client_id", settings.identity.client_id),
        *(("claims.tenants", tenant) for tenant in settings.claims.tenants),
        *((f"the organization of queue '{queue.name}'", queue.organization) for queue in settings.request_queues),
        *(("the URL of a Dataverse organization", url) for url in settings.dataverse_urls),
        *((f"flows.{name}.url", flow.url.get_secret_value()) for name, flow in settings.flows.items()),
    ]
    return list(dict.fromkeys(name for name, value in values if value is not None and _is_placeholder(str(value))))


def _is_placeholder(value: str) -> bool:
    text = value.strip().lower()
    host = urlsplit(text).hostname if "://" in text else text
    return text == _NOBODY or _ENVIRONMENT in (host or "") or (host or "").split(".")[0] == "contoso"
