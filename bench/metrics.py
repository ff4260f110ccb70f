"""Measures the processor time that metrics and traces take of one request: `python -m bench.metrics`.

The wrappers stand around ports that do nothing, so that only their own cost counts. The least time of many short rounds
counts, because other work on the machine only adds to it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Annotated, Any, cast

import typer
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.request import ReplyAddress
from flow_contracts.result import FlowResult, Status, Times
from flow_contracts.servicebus import Delivery
from flow_worker.broker_clock import BrokerClock
from flow_worker.flows.answer import Answer, Content
from flow_worker.flows.registry import Flow
from flow_worker.instrumentation import Instrumentation
from flow_worker.journal import JobKey, Journal, Lease
from flow_worker.pipeline.outcome import Outcome, Reply
from flow_worker.pipeline.ports import Caller
from flow_worker.runtime.ports import Bus, OutcomeSender, QueueReceiver
from flow_worker.settings import Settings
from flow_worker.telemetry.health import Health
from flow_worker.telemetry.histograms import Histogram
from flow_worker.telemetry.metrics import Metrics
from flow_worker.telemetry.readers import PrometheusReader

_URL = "https://one.environment.api.powerplatform.com/flow?api-version=1"
_FLOW = Flow("create-quote", _URL, "Quotes.Create", 10.0, idempotent=False)
_REQUESTS = 150
"""Of one round: so few that some rounds meet no other work."""
_NOW = datetime.now(UTC)


def _delivery(number: int) -> Delivery:
    """Return a delivery whose trace is one of an even spread, so that a round has the sampler's share exactly."""
    trace_id = f"{1:016x}{(2 * number + 1) * 2**63 // _REQUESTS:016x}"
    received = ReceivedMessage(
        body=b"",
        enqueued_at=_NOW,
        message_id="m",
        correlation_id="c",
        application_properties={"contract": "flow-request/1", "traceparent": f"00-{trace_id}-{number + 1:016x}-00"},
    )
    return Delivery(received, raw=cast(Any, None))


_DELIVERIES = [_delivery(number) for number in range(_REQUESTS)]
_ANSWER = Answer(200, Content(), None, {})
_TIMES = Times(accepted=_NOW - timedelta(seconds=1))
_RESULT = FlowResult(status=Status.SUCCEEDED, flow=_FLOW.name, times=_TIMES, correlation_id="c", request_message_id="m")
_REPLY = Reply(_RESULT, ReplyAddress("m", "c", "c", None), "flow-replies")
_MESSAGE = Message(body=b"", application_properties={"contract": "flow-result/1"})
_JOB, _LEASE = JobKey("m", "f", "o", 0), cast(Lease, None)


class _Idle:
    """Ports that do nothing: those methods that a request without an incident calls."""

    def __init__(self) -> None:
        self._deliveries = cycle(_DELIVERIES)

    async def receive(self) -> Delivery:
        return next(self._deliveries)

    async def complete(self, delivery: Delivery) -> None:
        return

    async def token(self, *_: object, **__: object) -> str:
        return "token"

    async def invoke(self, *_: object, **__: object) -> Answer:
        return _ANSWER

    async def acquire(self, *_: object, **__: object) -> None:
        return

    async def conclude(self, *_: object, **__: object) -> FlowResult:
        return _RESULT

    async def mark_published(self, *_: object) -> None:
        return

    @asynccontextmanager
    async def receiver(self, queue: str) -> AsyncIterator[QueueReceiver]:
        yield cast(QueueReceiver, self)

    async def send(self, *_: object, **__: object) -> Outcome:
        return _REPLY


@dataclass(frozen=True)
class _Ports:
    bus: Bus
    journal: Journal
    caller: Caller
    dispatcher: OutcomeSender
    decided: Callable[[str, str | None, str | None], None] = lambda *_: None


def _bare() -> _Ports:
    idle: Any = _Idle()
    return _Ports(idle, idle, idle, idle)


def _wrapped(
    provider: MeterProvider, tracer: Tracer | None = None, histograms: list[Histogram] | None = None
) -> _Ports:
    bare, health = _bare(), Health()
    one = Instrumentation(Metrics(provider.get_meter("bench"), histograms), _settings(), BrokerClock(), tracer)
    bus, journal = one.bus(bare.bus, health), one.journal(bare.journal, health)
    return _Ports(bus, journal, one.caller(bare.caller), one.dispatcher(bare.dispatcher), one.decided)


def _settings() -> Settings:
    return Settings.model_validate(
        {
            "servicebus": {"namespace": "contoso.servicebus.windows.net"},
            "claims": {"tenants": ["11111111-2222-3333-4444-555555555555"], "audiences": ["bench"]},
            "flows": {_FLOW.name: {"url": _URL, "role": _FLOW.role}},
        }
    )


def _exporting(tracer: Tracer | None = None) -> _Ports:
    histograms: list[Histogram] = []
    reader = PrometheusReader(CollectorRegistry(), histograms)
    off = sdk.AlwaysOffExemplarFilter()
    return _wrapped(sdk.MeterProvider([reader], shutdown_on_exit=False, exemplar_filter=off), tracer, histograms)


def _sampling(share: float) -> Tracer:
    """Return a tracer whose spans go nowhere: the exporter's own thread costs more, or less, with other collectors."""
    provider = TracerProvider(sampler=TraceIdRatioBased(share), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Discarding()))
    return provider.get_tracer("bench")


class _Discarding(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def _round(ports: _Ports) -> float:
    """Return the processor time of one request in microseconds."""
    async with ports.bus.receiver("flow-requests") as receiver:
        began = time.process_time()
        for _ in range(_REQUESTS):
            delivery = await receiver.receive()
            ports.decided("flow-requests", "entra", None)
            token = await ports.caller.token()
            await ports.journal.acquire(_JOB, duration=timedelta(seconds=1), calls=0)
            await ports.caller.invoke(_FLOW, None, token=token, correlation_id="c", traceparent=None)
            await ports.journal.conclude(_LEASE, _RESULT)
            await ports.bus.send("flow-replies", _MESSAGE)
            await ports.dispatcher.send(_REPLY)
            await ports.journal.mark_published("m", "o")
            await receiver.complete(delivery or _DELIVERIES[0])
        return 1e6 * (time.process_time() - began) / _REQUESTS


async def _measure(rounds: int) -> dict[str, float]:
    cases = {
        "none": _bare(),
        "without SDK": _wrapped(NoOpMeterProvider()),
        "Prometheus": _exporting(),
        "Prometheus and spans, none sampled": _exporting(_sampling(0.0)),
        "Prometheus and spans, 10 % sampled": _exporting(_sampling(0.1)),
        "Prometheus and spans, all sampled": _exporting(_sampling(1.0)),
    }
    least = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):  # in turns: a change of the machine's load then affects every case
        for name, ports in cases.items():
            least[name] = min(least[name], await _round(ports))
    return {name: round(us - least["none"], 1) for name, us in least.items() if name != "none"}


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of 150 requests.")] = 150,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the processor time of metrics and traces for one request."""
    added = asyncio.run(_measure(rounds))
    if json_:
        typer.echo(json.dumps(added, indent=2))
        return
    table = Table("telemetry", "CPU µs/request")
    for name, us in added.items():
        table.add_row(name, f"{us:g}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
