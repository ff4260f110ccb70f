"""The files that `flow-worker init` writes."""

from __future__ import annotations

SCHEMA_FILE = "flow-worker.schema.json"
COMMANDS = (
    "servicebus-emulator serve --config emulator.json --admin-port 5300",
    "servicebus-emulator settings --output emulator.env",
    "flow-worker doctor --env-file emulator.env",
)
"""The first command runs on; the others are for a second terminal."""

TOML = f"""#:schema ./{SCHEMA_FILE}
# Settings of flow-worker. An editor with a TOML language server completes and checks them by the schema above.
# Variables override this file: FLOW_WORKER_SERVICEBUS__NAMESPACE is [servicebus] namespace.
#
# Try it on the emulator, without Azure. The first command runs on; start the others in a second terminal:
#   {COMMANDS[0]}
#   {COMMANDS[1]}
#   {COMMANDS[2]}
# emulator.env moves this file's namespace, claims and flows to the emulator. In Azure, leave it out.

# cloud = "public"                 # gcc, gcc-high, dod, china
# explain_refusals = true          # development: results say why a sender may not start a flow
# shutdown_grace_seconds = 30      # how long a stopping worker finishes its requests

[servicebus]
namespace = "contoso.servicebus.windows.net"  # with the managed identity
# Instead of a namespace, set FLOW_WORKER_SERVICEBUS__CONNECTION_STRING from a secret store.

[identity]
# client_id = "00000000-0000-0000-0000-000000000000"  # of a user-assigned identity; default: system-assigned

# Who may send: users and applications with an access token of these tenants for one of these audiences.
[claims]
tenants = ["00000000-0000-0000-0000-000000000000"]
audiences = ["api://flow-worker"]
# scopes = ["access_as_user"]      # a delegated permission that a user's token needs
# clients = []                     # client IDs of the applications that may send; default: every one

# The queues that senders post to. Each has its own authority.
[[request_queues]]
name = "flow-requests"
lanes = 8                          # requests at a time

# A queue for the messages of a Dataverse service endpoint:
# [[request_queues]]
# name = "dataverse-requests"
# authority = "dataverse"
# organization = "00000000-0000-0000-0000-000000000000"
# flows = {{ "new_StartQuote" = "create-quote" }}
# deliver_to = ["rows"]            # each request also becomes a row in Dataverse, see [delivery.rows] below

# The queue of the HTTP gateway, `flow-worker gateway`, for browsers and other callers over HTTP:
# [[request_queues]]
# name = "flow-requests-gateway"
# authority = "gateway"
# reply_to = "flow-replies-gateway"  # only the gateway reads it
# [gateway]
# allowed_origins = ["http://localhost:8000"]  # pages that may call it, such as https://*.crm4.dynamics.com
# # host = "127.0.0.1"             # "0.0.0.0" in a container
# # port = 8081
# # public_url = "https://flows.contoso.com"  # behind a proxy

[continuations]
queue = "flow-continuations"       # only the worker may send here
# seal_key comes from FLOW_WORKER_CONTINUATIONS__SEAL_KEY. Workers on several machines need the same key.

[replies]
queues = ["flow-replies"]
time_to_live_seconds = 3600

[journal]
path = "flow-worker-journal.sqlite3"  # on a local disk that outlives the worker
# backend = "table"                   # for workers on several machines; also set table_endpoint

# [dataverse]
# url = "https://contoso.crm4.dynamics.com"  # decides about privileges

# Sinks: where results also go. A request queue or a flow names its sinks in deliver_to.
# [delivery.rows]
# kind = "dataverse_row"           # or "in_app_notification"
# table = "new_flowrequest"

# Looks for the run of a flow whose answer was lost, and settles the result `unknown`.
# [run_records]
# enabled = true

# One table for each flow. The URL is a secret: better set FLOW_WORKER_FLOWS, or mount this file as a secret.
[flows.create-quote]
url = "https://0123456789abcdef0123456789abcd.ef.environment.api.powerplatform.com/powerautomate/automations/direct/workflows/0123456789abcdef0123456789abcdef/triggers/manual/paths/invoke?api-version=1"
role = "Quotes.Create"             # the app role that a sender's token needs
# privilege = "prvCreatenew_quote" # the Dataverse privilege that the user needs
# idempotent = true                # the worker may call it again if an answer is lost
# timeout_seconds = 130

[health]
host = "127.0.0.1"                 # "0.0.0.0" in a container
port = 8080

[log]
level = "INFO"
format = "text"                    # "json" for a log collector
"""

ENV_EXAMPLE = """# Copy this file to .env, which flow-worker reads, and fill in the secrets.
# Keep .env out of version control. Variables override flow-worker.toml. Lists and tables are JSON.

# FLOW_WORKER_SERVICEBUS__CONNECTION_STRING='Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…'
# FLOW_WORKER_SERVICEBUS__NAMESPACE=null
# FLOW_WORKER_CONTINUATIONS__SEAL_KEY=
# FLOW_WORKER_FLOWS='{"create-quote": {"url": "https://…"}}'
# FLOW_WORKER_JOURNAL__TABLE_CONNECTION_STRING=

# For `flow-worker send`: the sender's claim.
# FLOW_WORKER_CLAIM=
"""

GITIGNORE = """# Secrets, and files of this machine.
.env
emulator.env
*.sqlite3*
flow-worker-gateway-key.pem*
"""

EMULATOR_JSON = """{
  "UserConfig": {
    "Namespaces": [
      {
        "Name": "sbemulatorns",
        "Queues": [
          {
            "Name": "flow-requests",
            "Properties": {
              "RequiresDuplicateDetection": true,
              "DuplicateDetectionHistoryTimeWindow": "PT10M",
              "LockDuration": "PT5M",
              "MaxDeliveryCount": 10,
              "DeadLetteringOnMessageExpiration": true
            }
          },
          {
            "Name": "flow-continuations",
            "Properties": {
              "RequiresDuplicateDetection": true,
              "DuplicateDetectionHistoryTimeWindow": "PT10M",
              "LockDuration": "PT5M",
              "MaxDeliveryCount": 10
            }
          },
          {
            "Name": "flow-replies",
            "Properties": {
              "RequiresSession": true,
              "RequiresDuplicateDetection": true,
              "DuplicateDetectionHistoryTimeWindow": "PT1H",
              "DefaultMessageTimeToLive": "PT1H"
            }
          },
          {
            "Name": "flow-requests-gateway",
            "Properties": {
              "RequiresDuplicateDetection": true,
              "DuplicateDetectionHistoryTimeWindow": "PT10M",
              "LockDuration": "PT5M",
              "MaxDeliveryCount": 10,
              "DeadLetteringOnMessageExpiration": true
            }
          },
          {
            "Name": "flow-replies-gateway",
            "Properties": {
              "RequiresDuplicateDetection": true,
              "DuplicateDetectionHistoryTimeWindow": "PT1H",
              "DefaultMessageTimeToLive": "P1D",
              "LockDuration": "PT10S",
              "MaxDeliveryCount": 10
            }
          }
        ]
      }
    ]
  },
  "FlowWorker": {
    "Dataverse": {
      "Roles": [{ "Name": "Quote clerk", "Privileges": { "prvCreatenew_quote": "Local" } }],
      "Users": [{ "Name": "ada", "Roles": ["Quote clerk"] }]
    },
    "Flows": [
      {
        "Name": "create-quote",
        "Response": { "Template": { "quote": "Q-{run_id}", "customer": "{input.customer}" } }
      }
    ]
  }
}
"""
