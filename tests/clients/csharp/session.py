"""Receives from one session with the SDK for Python, for the stand-ins in ServiceBus.cs.

The first line on standard input is "CONNECTION_STRING<tab>QUEUE<tab>SESSION_ID". Each further line is a command. Each
line gets one line as its answer:

- "receive<tab>SECONDS": "none", or the message as "ID<tab>BODY" and "<tab>NAME<tab>VALUE" for each property. Bodies and
  values are Base64;
- "complete<tab>ID": "done".
"""

from __future__ import annotations

import base64
import sys

from azure.servicebus import ServiceBusClient, ServiceBusReceivedMessage


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _encoded(message: ServiceBusReceivedMessage) -> str:
    fields = [_text(message.message_id), base64.b64encode(b"".join(message.body)).decode()]
    for name, value in (message.application_properties or {}).items():
        fields += [_text(name), base64.b64encode(_text(value).encode()).decode()]
    return "\t".join(fields)


def _answer(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Answer the commands on standard input until it ends."""
    connection_string, queue, session_id = sys.stdin.readline().rstrip("\n").split("\t")
    received: dict[str, ServiceBusReceivedMessage] = {}
    with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_receiver(queue, session_id=session_id) as session,
    ):
        _answer("open")
        for line in sys.stdin:
            command, argument = line.rstrip("\n").split("\t")
            if command == "complete":
                session.complete_message(received.pop(argument))
                _answer("done")
                continue
            messages = session.receive_messages(max_message_count=1, max_wait_time=float(argument))
            received |= {_text(message.message_id): message for message in messages}
            _answer(_encoded(messages[0]) if messages else "none")


if __name__ == "__main__":
    main()
