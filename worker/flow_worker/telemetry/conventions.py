"""Names of the semantic conventions of OpenTelemetry for spans, and of the worker's own attributes.

The conventions for messaging are in development. `opentelemetry-semantic-conventions` has them in a private package,
so they are copied here. `docs/reference/traces.md` lists the spans.
"""

from __future__ import annotations

# --- messaging -------------------------------------------------------------------------------------------------------

SYSTEM = "messaging.system"
SERVICE_BUS = "servicebus"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
BATCH_COUNT = "messaging.batch.message_count"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
ENQUEUED_TIME = "messaging.servicebus.message.enqueued_time"
"""In seconds since 1970."""
DELIVERY_COUNT = "messaging.servicebus.message.delivery_count"
DISPOSITION = "messaging.servicebus.disposition_status"

# --- HTTP and general ------------------------------------------------------------------------------------------------

METHOD = "http.request.method"
ROUTE = "http.route"
URL_PATH = "url.path"
URL_SCHEME = "url.scheme"
PROTOCOL_VERSION = "network.protocol.version"
STATUS_CODE = "http.response.status_code"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"

# --- Azure Monitor ---------------------------------------------------------------------------------------------------

NAMESPACE = "az.namespace"
"""Without it, the exporter of Azure Monitor takes no queue for the source of a request."""
SERVICE_BUS_NAMESPACE = "Microsoft.ServiceBus"
LINK_ENQUEUED_TIME = "enqueuedTime"
"""Of a link, in milliseconds since 1970. Azure Monitor derives `timeSinceEnqueued` from it."""

# --- the worker's own ------------------------------------------------------------------------------------------------

FLOW = "flow_worker.flow"
STATUS = "flow_worker.status"
CODE = "flow_worker.code"
AUTHORITY = "flow_worker.authority"
AUTHENTICATE = "authenticate"
AUTHORIZE = "authorize"
