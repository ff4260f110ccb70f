"""`flow-worker deadletters`, on messages that a broker has dead-lettered.

The tests share one broker, because most of their time goes into opening and closing links. Each test recognises its
own messages by their dead-letter reason.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusSubQueue
from pydantic import JsonValue, SecretStr
from typer.testing import CliRunner, Result

from flow_contracts.message import Message
from flow_contracts.servicebus.conversion import to_sdk
from flow_worker.cli.main import cli
from flow_worker.dead_letters.actions import replay_with
from flow_worker.dead_letters.view import DeadLetterView
from flow_worker.pipeline import decode
from flow_worker.pipeline.job import Job
from flow_worker.pipeline.seal import Seal, SealKey
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import RequestQueue, ServiceBusSettings
from servicebus_emulator import config
from tests.support.emulator import Bus, emulator_in_thread
from tests.support.processes import CHECKOUT
from tests.support.receiving import receive_blocking
from tests.support.system import WAIT, running_system, until
from tests.support.undecodable import undecodable_request

pytestmark = pytest.mark.timeout(120)

REQUESTS, CONTINUATIONS = "flow-requests", "flow-continuations"
SEAL_KEY = "the key of the workers of this test"
SEAL = Seal(CONTINUATIONS, SealKey(SEAL_KEY.encode()), valid_for=timedelta(days=7))
READERS = decode.readers([RequestQueue(name=REQUESTS)], CONTINUATIONS, SEAL)
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJvaWQiOiJhZGEifQ.c2lnbmF0dXJl"
INPUT: JsonValue = {"customer": "Contoso Ltd", "amount": 1}
LONG_AGO = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class DeadLetterBroker:
    """A broker, a receiver that dead-letters messages, and a command line without a terminal."""

    def __init__(self, bus: Bus, client: ServiceBusClient) -> None:
        self.bus = bus
        self._senders = {name: client.get_queue_sender(name) for name in (REQUESTS, CONTINUATIONS)}
        self._receivers = {name: client.get_queue_receiver(name) for name in (REQUESTS, CONTINUATIONS)}

        self._dead = client.get_queue_receiver(REQUESTS, sub_queue=ServiceBusSubQueue.DEAD_LETTER)

    def dead_letter(self, reason: str, *messages: ServiceBusMessage, queue: str = REQUESTS) -> None:
        """Send the messages and dead-letter them."""
        self._senders[queue].send_messages(list(messages))
        receiver, left = self._receivers[queue], len(messages)
        while left:
            for one in receiver.receive_messages(left, max_wait_time=5):
                receiver.dead_letter_message(one, reason=reason, error_description="for this test")
                left -= 1

    def run(self, *arguments: str) -> Result:
        """Run `flow-worker deadletters …`."""
        return CliRunner(env=self.environment).invoke(cli, ["deadletters", *arguments])

    @property
    def environment(self) -> dict[str, str]:
        """The command line's settings."""
        return {
            "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": self.bus.connection_string,
            "FLOW_WORKER_SERVICEBUS__RECEIVE_WAIT_SECONDS": "0.5",
            "FLOW_WORKER_CONTINUATIONS__SEAL_KEY": SEAL_KEY,
            "COLUMNS": "80",
        }

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the output of `list --json`."""
        done = self.run("list", "--json", *arguments)
        assert done.exit_code == 0, done.output
        views: list[dict[str, Any]] = json.loads(done.stdout)
        return views

    @contextmanager
    def locking(self) -> Iterator[set[str | None]]:
        """Lock all dead-lettered requests and yield their message IDs."""
        messages = receive_blocking(self._dead, self.depth)
        yield {one.message_id for one in messages}
        for one in messages:
            self._dead.abandon_message(one)

    @property
    def depth(self) -> int:
        """The number of dead-lettered requests."""
        return self.bus.broker.counts()[REQUESTS]["dead_lettered"]

    def waiting(self) -> list[Job]:
        """Return the jobs in the continuation queue and remove them."""
        receiver = self._receivers[CONTINUATIONS]
        messages = receiver.receive_messages(10, max_wait_time=1)
        for one in messages:
            receiver.complete_message(one)
        return [Job.model_validate_json(b"".join(one.body)) for one in messages]


@pytest.fixture(scope="module")
def broker() -> Iterator[DeadLetterBroker]:
    with (
        emulator_in_thread(*config.load(None).queues) as bus,
        ServiceBusClient.from_connection_string(bus.connection_string) as client,
    ):
        yield DeadLetterBroker(bus, client)


def request(name: str, **changes: Any) -> ServiceBusMessage:
    """Return a request whose message ID and correlation ID begin with `name`."""
    body = {"flow": "create-quote", "input": INPUT, "claim": TOKEN} | changes
    return ServiceBusMessage(
        json.dumps(body),
        message_id=f"{name}-message",
        correlation_id=f"{name}-correlation",
        application_properties={"contract": "flow-request/1", "note": f"Bearer {TOKEN}"},
    )


def unreadable(name: str) -> ServiceBusMessage:
    return ServiceBusMessage(b'{"claim": "hushhush", "flow"', message_id=name)


def continuation(name: str, **changes: Any) -> ServiceBusMessage:
    return to_sdk(SEAL.sealed(unsealed_continuation(name, **changes), datetime.now(UTC)))


def unsealed_continuation(name: str, **changes: Any) -> Message:
    return (
        Job(
            origin="flow-requests:1:then",
            number=3,
            request_queue=REQUESTS,
            flow="create-quote",
            input=INPUT,
            input_hash="0",
            message_id=f"{name}-message",
            correlation_id=f"{name}-correlation",
            reply_to_session_id=f"{name}-session",
            accepted=LONG_AGO,
            calls=2,
            waits=1,
            code="flow_unavailable",
            claim=SecretStr("hushhush"),
        )
        .model_copy(update=changes)
        .to_message()
    )


def words(text: str) -> str:
    return " ".join(text.split())


def test_list_prints_each_dead_letter_with_its_queue_and_reason(broker: DeadLetterBroker) -> None:
    broker.dead_letter("[red]odd\x1b[2J", request("listed"), unreadable("listed-broken"))
    broker.dead_letter("[red]odd\x1b[2J", continuation("listed-later"), queue=CONTINUATIONS)
    done = broker.run("list", "--reason", "[red]odd\x1b[2J")
    assert done.exit_code == 0, done.output
    for text in [REQUESTS, CONTINUATIONS, "listed-message", "listed-correlation", "(unreadable)", "for this test"]:
        assert text in done.stdout
    assert "3 messages: 3 [red]odd" in done.stdout
    assert "\x1b" not in done.stdout
    assert "hushhush" not in done.stdout
    assert "eyJ" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_no_replay_seals_what_a_stranger_wrote(broker: DeadLetterBroker) -> None:
    forged = to_sdk(unsealed_continuation("forged", claim=None))
    broker.dead_letter("continuation_unproven", forged, queue=CONTINUATIONS)
    done = broker.run("replay", "--reason", "continuation_unproven", "--yes")
    assert done.exit_code == 1, done.output
    assert "nothing proves that a worker sent it" in words(done.stdout)
    assert broker.waiting() == []


def test_a_replay_without_the_key_of_the_workers_is_refused(broker: DeadLetterBroker) -> None:
    broker.dead_letter("Keyless", request("keyless"))
    without = {name: value for name, value in broker.environment.items() if "SEAL_KEY" not in name}
    done = CliRunner(env=without).invoke(cli, ["deadletters", "replay", "--reason", "Keyless"])
    assert done.exit_code == 2, done.output
    assert "continuations.seal_key" in words(done.output)
    assert broker.listed("--reason", "Keyless")


def test_list_filters_and_reads_beyond_one_page(broker: DeadLetterBroker) -> None:
    broker.dead_letter("Narrow", *(unreadable(f"narrow-{number}") for number in range(150)))
    broker.dead_letter("Narrow", request("narrow", flow="notify-team"))
    assert [one["message_id"] for one in broker.listed("--flow", "notify-team")] == ["narrow-message"]
    done = broker.run("list", "--reason", "narrow", "--queue", REQUESTS, "--limit", "2")
    assert "151 messages: 151 Narrow" in done.stdout
    assert "149 more are not shown" in done.stdout


def test_show_prints_the_whole_dead_letter_with_secrets_masked(broker: DeadLetterBroker) -> None:
    broker.dead_letter("Shown", request("shown"))
    done = broker.run("show", "shown-message")
    assert done.exit_code == 0
    assert "shown-correlation" in done.stdout
    assert "***" in done.stdout
    assert "Contoso Ltd" not in done.stdout
    [document] = json.loads(broker.run("show", "shown-correlation", "--json", "--input").stdout)
    assert document["request"]["input"] == INPUT
    assert document["request"]["claim"] == "***"
    assert document["application_properties"]["note"] == "Bearer ***"


def test_show_masks_the_secrets_of_a_status_poll_and_of_an_unreadable_body(broker: DeadLetterBroker) -> None:
    status_url = SecretStr("https://prod.example/runs/1?sig=hushhush")
    broker.dead_letter("Odd", continuation("odd", kind="poll", input=None, status_url=status_url), queue=CONTINUATIONS)
    broker.dead_letter("Odd", unreadable("odd-correlation"))
    shown = broker.run("show", "odd-correlation").stdout
    assert "status url" in shown
    assert "hushhush" not in shown
    assert re.search(r"body bytes +28", shown)
    assert "The application property 'contract' must be" in words(shown)


def test_replay_starts_a_continuation_again_and_leaves_unreplayable_messages(broker: DeadLetterBroker) -> None:
    broker.dead_letter("Again", unreadable("again-broken"))
    poll, call = continuation("poll", kind="poll", input=None), continuation("again")
    broker.dead_letter("Again", poll, call, queue=CONTINUATIONS)
    done = broker.run("replay", "--reason", "again", "--yes")
    assert done.exit_code == 1
    assert "Replayed 1 message, left 2" in words(done.stdout)
    assert "'contract' must be" in words(done.stdout)
    assert "contains no input any more" in words(done.stdout)
    [again] = broker.waiting()
    assert (again.number, again.calls, again.waits, again.code) == (0, 0, 0, None)
    assert (again.input, again.accepted, again.reply_to_session_id) == (INPUT, LONG_AGO, "again-session")
    assert again.claim is not None


def test_more_than_one_message_needs_a_confirmation(broker: DeadLetterBroker) -> None:
    before = broker.depth
    broker.dead_letter("Many", request("many-1"), request("many-2"))
    refused = broker.run("discard", "--reason", "many")
    assert refused.exit_code == 2
    assert "--yes" in refused.stderr
    dry = broker.run("replay", "--reason", "many", "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, "Would replay 2 messages, left 0.\n")
    mistyped = broker.run("discard", "many-1-message", "nobody", "--yes")
    assert mistyped.exit_code == 3
    assert "nobody" in mistyped.stderr
    assert broker.depth == before + 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX pseudo-terminal")
def test_discard_asks_for_confirmation_at_a_terminal(broker: DeadLetterBroker) -> None:
    import pty

    before = broker.depth
    broker.dead_letter("Confirm", request("confirm-1"), request("confirm-2"))
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    command = [sys.executable, "-m", "flow_worker", "deadletters", "discard", "--reason", "confirm"]
    environment = os.environ | broker.environment | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, env=environment, check=False)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 1
    assert "Discard these 2 messages? This deletes the last copy of their requests and inputs" in done.stderr
    assert broker.depth == before + 2


def test_discard_reaches_messages_behind_others_and_leaves_those(broker: DeadLetterBroker) -> None:
    broker.dead_letter("Before", *(unreadable(f"before-{number}") for number in range(120)))
    broker.dead_letter("Behind", request("behind-1"), request("behind-2"))
    done = broker.run("discard", "--reason", "behind", "--yes")
    assert (done.exit_code, done.stdout) == (0, "Discarded 2 messages, left 0.\n")
    emptied = broker.run("discard", "--reason", "before", "--yes")  # all were abandoned: none is locked
    assert (emptied.exit_code, emptied.stdout) == (0, "Discarded 120 messages, left 0.\n")


def test_a_message_that_another_receiver_has_locked_is_left(broker: DeadLetterBroker) -> None:
    broker.dead_letter("Held", request("held"))
    with broker.locking() as locked:
        assert "held-message" in locked
        done = broker.run("discard", "held-message")
    assert done.exit_code == 1
    assert "another receiver has locked it" in words(done.stdout)


async def test_an_undecodable_message_is_listed_and_discarded_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK fails each receive that contains a body nested too deeply, and the peek of its whole page."""
    async with running_system(monkeypatch) as system:
        await asyncio.to_thread(_send_two_requests_around_an_undecodable_one, system.emulator.connection_string)
        await until(lambda: system.depth("dead_lettered") == 3)
        environment = {
            "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": system.emulator.connection_string,
            "FLOW_WORKER_SERVICEBUS__RECEIVE_WAIT_SECONDS": "0.5",
        }

        async def run(*arguments: str) -> Result:
            return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, ["deadletters", *arguments])

        listed = json.loads((await run("list", "--json")).stdout)
        assert [one["message_id"] for one in listed] == ["first-message", "deep", "second-message"]
        assert "can decode" in listed[1]["not_replayable"]
        replayed = json.loads((await run("replay", "deep", "--yes", "--json")).stdout)
        assert "can decode" in replayed[0]["left"]
        one = await run("discard", "second-message")
        assert (one.exit_code, one.stdout) == (0, "Discarded 1 message, left 0.\n")
        rest = json.loads((await run("discard", "--all", "--yes", "--json")).stdout)
        assert [(one["message_id"], one["done"]) for one in rest] == [("first-message", True), ("deep", True)]
        assert system.depth("dead_lettered") == 0


def _send_two_requests_around_an_undecodable_one(connection_string: str) -> None:
    with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_sender(REQUESTS) as sender,
    ):
        first, second = request("first"), request("second")
        first.time_to_live = second.time_to_live = timedelta(seconds=1)
        for one in (first, undecodable_request("deep", ttl_ms=1000), second):
            sender.send_messages(one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--queue", "flow-replies"], "the worker's queues are flow-requests, flow-continuations"),
        (["discard"], "Select dead letters"),
        (["replay", "1", "--all"], "not both"),
        (["list", "--config", "absent.toml"], "absent.toml: no such file"),
    ],
)
def test_wrong_usage_exits_with_2_and_one_sentence(
    broker: DeadLetterBroker, arguments: list[str], message: str
) -> None:
    done = broker.run(*arguments)
    assert done.exit_code == 2
    assert message in words(done.stderr)


async def test_the_sender_gets_one_result_of_an_interrupted_and_repeated_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first command ends between sending and deleting: dead letter and new request both exist."""
    async with running_system(monkeypatch) as system, system.client() as client:
        brief = timedelta(milliseconds=1)
        sent = await client.submit("create-quote", INPUT, claim=system.claim(), time_to_live=brief)
        await until(lambda: system.depth("dead_lettered") == 1)
        await _send_without_deleting(system.settings().servicebus)
        assert (system.depth("dead_lettered"), system.depth("active", CONTINUATIONS)) == (1, 1)
        env = {
            "FLOW_WORKER_SERVICEBUS__CONNECTION_STRING": system.emulator.connection_string,
            "FLOW_WORKER_CONTINUATIONS__SEAL_KEY": SEAL_KEY,
        }
        done = await asyncio.to_thread(CliRunner(env=env).invoke, cli, ["deadletters", "replay", sent])
        assert done.exit_code == 0, done.output
        assert (system.depth("dead_lettered"), system.depth("active", CONTINUATIONS)) == (0, 1)
        async with system.worker(system.settings(continuations={"seal_key": SEAL_KEY})):
            result = await client.take(sent, WAIT)
    assert result is not None
    assert result.status == "succeeded"
    assert result.request_message_id in done.stdout


async def _send_without_deleting(settings: ServiceBusSettings) -> None:
    async with open_service_bus(settings) as bus, bus.dead_letter_queue(REQUESTS) as dead:
        async for one in dead.peek():
            view = DeadLetterView.of(REQUESTS, one, READERS[REQUESTS])
            await replay_with(bus, CONTINUATIONS, READERS, SEAL)(view, one.message)


def test_show_takes_the_short_form_of_an_id_and_names_the_candidates(broker: DeadLetterBroker) -> None:
    own = "5c0ffee5-5e44-454d-9b59-52f9bb9e8530"
    broker.dead_letter("Short", request(f"{own}-a"), request("5c0ffee5-another"))
    one = broker.run("show", f"{own[:10]}…", "--json")
    assert one.exit_code == 0, one.output
    assert [found["message_id"] for found in json.loads(one.stdout)] == [f"{own}-a-message"]
    several = broker.run("show", "5C0FFEE5…")
    assert (several.exit_code, "5c0ffee5-another-message" in several.stderr) == (2, True), several.output
    assert broker.run("show", "5c0ffee…").exit_code == 3
