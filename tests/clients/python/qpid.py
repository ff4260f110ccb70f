"""Checks of Qpid Proton, a plain AMQP 1.0 client. Each public function is one check with one queue."""

from __future__ import annotations

import base64
import hmac
import importlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

# The type checker runs in an environment without Proton.
proton: Any = importlib.import_module("proton")
utils: Any = importlib.import_module("proton.utils")
reactor: Any = importlib.import_module("proton.reactor")

ReadyLine = dict[str, Any]
SECONDS = 10


@contextmanager
def _connection(emulator: ReadyLine, **options: Any) -> Iterator[Any]:
    """Open a connection and put a token for the namespace."""
    endpoint = re.search(r"Endpoint=sb://([^;]*)", emulator["connection_string"])
    assert endpoint is not None
    how = {"allowed_mechs": "ANONYMOUS", "timeout": SECONDS} | options
    connection = utils.BlockingConnection(f"amqp://{endpoint[1]}", **how)
    try:
        assert _put(connection, _signed("sb://localhost/")) == 202
        yield connection
    finally:
        connection.close()


def _signed(resource: str) -> str:
    quoted, expiry = quote(resource, safe=""), int(time.time()) + 3600
    digest = hmac.digest(b"SAS_KEY_VALUE", f"{quoted}\n{expiry}".encode(), "sha256")
    signature = quote(base64.b64encode(digest).decode(), safe="")
    return f"SharedAccessSignature sr={quoted}&sig={signature}&se={expiry}&skn=RootManageSharedAccessKey"


def _put(connection: Any, token: str) -> Any:
    """Put a token; return the status of the answer."""
    properties = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": "sb://localhost/"}
    receiver = connection.create_receiver("$cbs", credit=1)
    sender = connection.create_sender("$cbs")
    sender.send(proton.Message(id="request", properties=properties, body=token))
    answer = receiver.receive(timeout=SECONDS)
    sender.close()
    receiver.close()  # Proton names links by their address and allows one link of a name
    assert answer.correlation_id == "request"
    return answer.properties["status-code"]


def a_message_keeps_its_sections(emulator: ReadyLine, queue: str) -> None:
    sent = proton.Message(
        id="m",
        correlation_id=proton.ulong(7),
        subject="subject",
        content_type="text/plain",
        group_id="group",
        priority=7,
        durable=True,
        properties={"number": proton.int32(-1), "text": "ä"},
        annotations={proton.symbol("x-opt-mine"): "kept"},
        body={"nested": [1, None, "x"]},
    )
    with _connection(emulator) as connection:
        connection.create_sender(queue).send(sent)
        (got,) = _received(connection, queue, 1)
    for name in ("id", "correlation_id", "subject", "content_type", "group_id", "priority", "durable", "body"):
        assert getattr(got, name) == getattr(sent, name), name
    assert got.properties == {"number": -1, "text": "ä"}
    assert got.annotations["x-opt-mine"] == "kept"
    assert got.annotations["x-opt-sequence-number"] > 0


def a_wrong_token_is_refused(emulator: ReadyLine, _: str) -> None:
    with _connection(emulator) as connection:
        assert _put(connection, _signed("sb://localhost/").replace("sig=", "sig=AA")) == 401


def every_outcome_has_its_amqp_effect(emulator: ReadyLine, queue: str) -> None:
    with _connection(emulator) as connection:
        sender = connection.create_sender(queue)
        for name in ("accept", "release", "fail", "reject"):
            sender.send(proton.Message(body=name))
        receiver = connection.create_receiver(queue, credit=4)
        settle = {
            "accept": receiver.accept,
            "release": lambda: receiver.release(delivered=False),
            "fail": receiver.release,
            "reject": receiver.reject,
        }
        for _ in range(4):
            settle[receiver.receive(timeout=SECONDS).body]()
        receiver.close()  # Proton names links by their address and allows one link of a name
        again = {one.body: one.delivery_count for one in _received(connection, queue, 2)}
        assert again == {"release": 0, "fail": 1}
        assert [one.body for one in _received(connection, f"{queue}/$deadletterqueue", 1)] == ["reject"]


def a_drain_uses_up_the_credit(emulator: ReadyLine, queue: str) -> None:
    with _connection(emulator) as connection:
        sender = connection.create_sender(queue)
        sender.send(proton.Message(body=1))
        receiver = connection.create_receiver(queue)
        receiver.link.drain(10)
        connection.wait(lambda: not receiver.link.draining(), timeout=SECONDS)
        assert receiver.link.credit == 0
        assert receiver.fetcher.pop().body == 1  # `receive` would grant credit
        receiver.accept()
        sender.send(proton.Message(body=2))
        other = connection.create_receiver(queue, credit=1, name="other")
        assert other.receive(timeout=SECONDS).body == 2
        assert not receiver.fetcher.has_message


def a_large_message_arrives_in_small_frames(emulator: ReadyLine, queue: str) -> None:
    body = "ä" * 100_000
    with _connection(emulator, max_frame_size=512) as connection:
        connection.create_sender(queue).send(proton.Message(body=body))
        (got,) = _received(connection, queue, 1)
    assert got.body == body


def receive_and_delete_settles_what_it_sends(emulator: ReadyLine, queue: str) -> None:
    with _connection(emulator) as connection:
        connection.create_sender(queue).send(proton.Message(body=1))
        receiver = connection.create_receiver(queue, credit=1, options=reactor.AtMostOnce())
        assert receiver.receive(timeout=SECONDS).body == 1
        assert len(receiver.fetcher.unsettled) == 0
        receiver.close()
        empty = connection.create_receiver(queue, credit=1)
        _raised(proton.Timeout, lambda: empty.receive(timeout=0.3))


def a_link_to_an_unknown_queue_is_refused(emulator: ReadyLine, _: str) -> None:
    with _connection(emulator) as connection:
        for create in (connection.create_sender, connection.create_receiver):
            refusal = _raised(utils.LinkDetached, partial(create, "no-such-queue"))
            assert refusal.condition == "amqp:not-found", refusal


def a_message_over_the_limit_is_rejected(emulator: ReadyLine, queue: str) -> None:
    with _connection(emulator) as connection:
        sender = connection.create_sender(queue)
        refusal = _raised(utils.SendException, lambda: sender.send(proton.Message(body="x" * 300_000)))
        assert refusal.state == proton.Delivery.REJECTED


def _raised(expected: type[Exception], call: Callable[[], object]) -> Any:
    try:
        call()
    except expected as error:
        return error
    raise AssertionError(f"no {expected.__name__}")


def _received(connection: Any, queue: str, count: int) -> list[Any]:
    receiver = connection.create_receiver(queue, credit=count)
    got = []
    for _ in range(count):
        got.append(receiver.receive(timeout=SECONDS))
        receiver.accept()
    receiver.close()
    return got
