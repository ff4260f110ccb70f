"""All metrics of the worker: their names, units, descriptions and attributes, and the objects that record them.

The values of attributes are bounded: names from the settings, and codes from the worker's own list. Texts of senders
and of flows never become values. `docs/reference/metrics.md` lists the metrics for operators.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from flow_worker.errors import CallFailed, Refused, TemporarilyUnavailable
from flow_worker.telemetry.codes import RESULT_CODES
from flow_worker.telemetry.histograms import Histogram
from flow_worker.telemetry.instruments import (
    ERROR_TYPE,
    SECONDS_BUCKETS,
    SHORT_BUCKETS,
    Definition,
    Kind,
    ReadGauge,
    ReadGauges,
    Sample,
    Tally,
    Timer,
    observe,
)
from flow_worker.telemetry.logs import log

if TYPE_CHECKING:  # the API takes 50 ms to import, which commands without metrics need not pay for
    from opentelemetry.metrics import Meter

_log = logging.getLogger(__name__)

_API = "opentelemetry.metrics"

OTHER = "_OTHER"
"""The value for every name or code that is not on a list of ours; the semantic conventions use the same one."""

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""The HTTP methods that may be values of a label."""

# --- messaging, by the semantic conventions for Azure Service Bus ----------------------------------------------------

_OPERATION = "messaging.operation.name"
_OPERATION_TYPE = "messaging.operation.type"
_DESTINATION = "messaging.destination.name"
_SYSTEM = "messaging.system"
_SERVER = "server.address"
_MESSAGING = (_OPERATION, _SYSTEM, _DESTINATION, _SERVER)

PROCESS_DURATION = Definition(
    "messaging.process.duration",
    Kind.HISTOGRAM,
    "s",
    "Time from the delivery of a message to its settlement; one that was not completed has error.type.",
    (*_MESSAGING, ERROR_TYPE),
)
OPERATION_DURATION = Definition(
    "messaging.client.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the requests to Service Bus: receive, settle, send and renew.",
    (*_MESSAGING, _OPERATION_TYPE, ERROR_TYPE),
)
CONSUMED = Definition(
    "messaging.client.consumed.messages",
    Kind.COUNTER,
    "{message}",
    "Deliveries to this worker, repeated ones included.",
    _MESSAGING,
)
SENT = Definition(
    "messaging.client.sent.messages",
    Kind.COUNTER,
    "{message}",
    "Attempts to send a message, failed ones included.",
    (*_MESSAGING, ERROR_TYPE),
)
QUEUE_WAIT = Definition(
    "flow_worker.queue.wait.duration",
    Kind.HISTOGRAM,
    "s",
    "Time from the enqueueing of a message to its first delivery, by the broker's clock.",
    ("queue",),
    (*SECONDS_BUCKETS, 900, 3600),
)
LOCKS_LOST = Definition(
    "flow_worker.locks.lost", Kind.COUNTER, "{lock}", "Message locks that expired before the settlement.", ("queue",)
)
RENEWALS_FAILED = Definition(
    "flow_worker.lock_renewals.failed", Kind.COUNTER, "{renewal}", "Renewals of message locks that failed.", ("queue",)
)
RECONNECTS = Definition(
    "flow_worker.reconnects", Kind.COUNTER, "{connection}", "Connections of lanes that failed.", ("queue",)
)
LANES = Definition(
    "flow_worker.lanes", Kind.GAUGE, "{lane}", "Lanes by state: busy, idle or disconnected.", ("queue", "state")
)
SENDERS_OPEN = Definition("flow_worker.senders.open", Kind.GAUGE, "{link}", "Open links for sending.", ("queue",))

# --- requests --------------------------------------------------------------------------------------------------------

REQUESTS = Definition(
    "flow_worker.requests",
    Kind.COUNTER,
    "{request}",
    "Published results; code is that of the error, or empty.",
    ("flow", "status", "code"),
)
REQUEST_DURATION = Definition(
    "flow_worker.request.duration",
    Kind.HISTOGRAM,
    "s",
    "Time from the enqueueing of a request to its published result, by the broker's clock.",
    ("flow", "status"),
    (*SECONDS_BUCKETS, 900, 3600, 86_400),
)
DEAD_LETTERS = Definition(
    "flow_worker.dead_letters.answered",
    Kind.COUNTER,
    "{message}",
    "Results published for requests that Service Bus dead-lettered.",
    ("status", "code"),
)
DECISIONS = Definition(
    "flow_worker.access.decisions",
    Kind.COUNTER,
    "{decision}",
    "Decisions whether a sender may start a flow; code is empty if it may.",
    ("authority", "code"),
)

# --- flows -----------------------------------------------------------------------------------------------------------

CALLS = Definition(
    "flow_worker.flow.calls",
    Kind.COUNTER,
    "{call}",
    "Calls and status polls by their outcome: the class of the HTTP status, or the code of the failure.",
    ("flow", "kind", "outcome"),
)
HTTP_DURATION = Definition(
    "http.client.request.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the HTTP requests to flows, with the answer's body.",
    ("http.request.method", _SERVER, "server.port", "http.response.status_code", ERROR_TYPE, "flow"),
)
IN_FLIGHT = Definition("flow_worker.flow.in_flight", Kind.GAUGE, "{call}", "Calls in flight.", ("flow", "kind"))
WAITING = Definition(
    "flow_worker.flow.waiting",
    Kind.GAUGE,
    "{request}",
    "Requests that the limits of the flow or of their sender hold back, and that this worker expects back.",
    ("flow", "kind"),
)
CALLS_IN_WINDOW = Definition(
    "flow_worker.flow.calls_in_window", Kind.GAUGE, "{call}", "Calls in the rate limit's window.", ("flow", "kind")
)
CIRCUIT_OPEN = Definition(
    "flow_worker.flow.circuit_open", Kind.GAUGE, "1", "1 while the circuit breaker is open, else 0.", ("flow", "kind")
)
THROTTLED = Definition(
    "flow_worker.flow.throttled", Kind.GAUGE, "1", "1 while calls pause after a 429, else 0.", ("flow", "kind")
)

# --- tokens and keys -------------------------------------------------------------------------------------------------

TOKEN_DURATION = Definition(
    "flow_worker.token.fetch.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the requests for the managed identity's token, past the worker's own cache.",
    ("audience", ERROR_TYPE),
)
KEYS_DURATION = Definition(
    "flow_worker.keys.fetch.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the fetches of issuers' signing keys.",
    (ERROR_TYPE,),
)

# --- the journal and the clock ---------------------------------------------------------------------------------------

JOURNAL_DURATION = Definition(
    "flow_worker.journal.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the journal's operations; a failed one has error.type.",
    ("operation", ERROR_TYPE),
    SHORT_BUCKETS,
)
JOURNAL_AVAILABLE = Definition(
    "flow_worker.journal.available", Kind.GAUGE, "1", "1 while the journal takes new requests, else 0."
)
JOURNAL_LOG_SIZE = Definition(
    "flow_worker.journal.log.size", Kind.GAUGE, "By", "Bytes of the SQLite journal's write-ahead log in use."
)
GATEWAY_STORE_DURATION = Definition(
    "flow_worker.gateway.store.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the operations of the gateway's store; a failed one has error.type.",
    ("operation", ERROR_TYPE),
    SHORT_BUCKETS,
)
GATEWAY_STORE_AVAILABLE = Definition(
    "flow_worker.gateway.store.available", Kind.GAUGE, "1", "1 while the gateway's store takes new requests, else 0."
)
GATEWAY_STORE_LOG_SIZE = Definition(
    "flow_worker.gateway.store.log.size",
    Kind.GAUGE,
    "By",
    "Bytes of the write-ahead log of the gateway's SQLite store in use.",
)
GATEWAY_RESULT_DELAY = Definition(
    "flow_worker.gateway.result.delay",
    Kind.HISTOGRAM,
    "s",
    "Time from the enqueueing of a result to its entry in the gateway's store, by the broker's clock.",
)
GATEWAY_REPLIES = Definition(
    "flow_worker.gateway.replies",
    Kind.COUNTER,
    "{message}",
    "Messages of the gateway's reply queue; outcome is stored, duplicate, unknown, returned, late or unreadable.",
    ("kind", "outcome"),
)
DELIVERIES = Definition(
    "flow_worker.deliveries",
    Kind.COUNTER,
    "{attempt}",
    "Attempts to deliver a request's state to a sink; outcome is delivered, postponed, failed or given_up.",
    ("sink", "state", "outcome"),
)
DELIVERY_DURATION = Definition(
    "flow_worker.delivery.duration", Kind.HISTOGRAM, "s", "Duration of the attempts of a sink.", ("sink", "outcome")
)
SINK_AVAILABLE = Definition(
    "flow_worker.sink.available", Kind.GAUGE, "1", "1 if the sink's latest attempt succeeded, else 0.", ("sink",)
)
CLOCK_OFFSET = Definition(
    "flow_worker.broker.clock_offset",
    Kind.GAUGE,
    "s",
    "Time by which this machine's clock is ahead of the broker's; negative if it is behind.",
)

# --- the HTTP gateway ------------------------------------------------------------------------------------------------

HTTP_SERVER_DURATION = Definition(
    "http.server.request.duration",
    Kind.HISTOGRAM,
    "s",
    "Duration of the gateway's HTTP requests, with the time that a long poll waits.",
    ("http.request.method", "http.route", "http.response.status_code", ERROR_TYPE),
)
GATEWAY_PROBLEMS = Definition(
    "flow_worker.gateway.problems",
    Kind.COUNTER,
    "{response}",
    "Problem documents that the gateway answered, by their code.",
    ("code",),
)
GATEWAY_QUEUE_AVAILABLE = Definition(
    "flow_worker.gateway.queue.available",
    Kind.GAUGE,
    "1",
    "1 while the gateway has a connection to the queue, else 0.",
    ("queue",),
)
GATEWAY_CONNECTIONS = Definition(
    "flow_worker.gateway.connections", Kind.GAUGE, "{connection}", "Open connections of the gateway's clients."
)
GATEWAY_WAITERS = Definition(
    "flow_worker.gateway.waiters", Kind.GAUGE, "{request}", "Long polls and streams of events that wait."
)
GATEWAY_SUBMISSIONS = Definition("flow_worker.gateway.submissions", Kind.GAUGE, "{request}", "Submissions under way.")

# --- the process -----------------------------------------------------------------------------------------------------

LOOP_LAG = Definition(
    "flow_worker.event_loop.lag",
    Kind.HISTOGRAM,
    "s",
    "Time by which a timer of the event loop is late, measured four times a second.",
    (),
    SHORT_BUCKETS,
)
BUILD_INFO = Definition(
    "flow_worker.build.info", Kind.GAUGE, "", "Always 1; the labels name the versions.", ("version", "python_version")
)


class Metrics:
    """The metrics of one worker."""

    def __init__(self, meter: Meter, histograms: list[Histogram] | None = None) -> None:
        """`histograms`: see `Timer`."""
        self._meter = meter
        self.are_recorded = not type(meter).__module__.startswith(_API)
        """False without an SDK: the meter is the API's own, which does nothing."""
        self._readers: list[ReadGauges] = []
        self._samples: dict[str, list[Sample]] = {}
        self.process_duration = Timer(PROCESS_DURATION, meter, histograms)
        self.operation_duration = Timer(OPERATION_DURATION, meter, histograms)
        self.consumed = Tally(CONSUMED, meter)
        self.sent = Tally(SENT, meter)
        self.queue_wait = Timer(QUEUE_WAIT, meter, histograms)
        self.locks_lost = Tally(LOCKS_LOST, meter)
        self.renewals_failed = Tally(RENEWALS_FAILED, meter)
        self.reconnects = Tally(RECONNECTS, meter)
        self.requests = Tally(REQUESTS, meter)
        self.request_duration = Timer(REQUEST_DURATION, meter, histograms)
        self.dead_letters = Tally(DEAD_LETTERS, meter)
        self.decisions = Tally(DECISIONS, meter)
        self.calls = Tally(CALLS, meter)
        self.http_duration = Timer(HTTP_DURATION, meter, histograms)
        self.token_duration = Timer(TOKEN_DURATION, meter, histograms)
        self.keys_duration = Timer(KEYS_DURATION, meter, histograms)
        self.journal_duration = Timer(JOURNAL_DURATION, meter, histograms)
        self.deliveries = Tally(DELIVERIES, meter)
        self.delivery_duration = Timer(DELIVERY_DURATION, meter, histograms)
        self.loop_lag = Timer(LOOP_LAG, meter, histograms)
        self.http_server_duration = Timer(HTTP_SERVER_DURATION, meter, histograms)
        self.gateway_problems = Tally(GATEWAY_PROBLEMS, meter)
        self.gateway_store_duration = Timer(GATEWAY_STORE_DURATION, meter, histograms)
        self.gateway_result_delay = Timer(GATEWAY_RESULT_DELAY, meter, histograms)
        self.gateway_replies = Tally(GATEWAY_REPLIES, meter)

    def gauge(self, definition: Definition, read: ReadGauge) -> None:
        """Register the reader of a gauge. It runs in the event loop, when `sample` does."""
        self.gauges([definition], lambda: {definition.name: read()})

    def gauges(self, definitions: Iterable[Definition], read: ReadGauges) -> None:
        """Register one reader for several gauges."""
        self._readers.append(read)
        for one in definitions:
            observe(self._meter.create_observable_gauge, one, partial(self._latest, one.name))

    def _latest(self, name: str) -> Iterable[Sample]:
        return self._samples.get(name, ())

    def sample(self) -> None:
        """Read all gauges. Exporters run in threads of their own, so that they get the values of the latest sample."""
        for read in list(self._readers):
            try:
                self._samples |= {name: list(samples) for name, samples in read().items()}
            except Exception:  # noqa: BLE001 - a faulty gauge must not take the others along
                self._readers.remove(read)
                log(_log, logging.ERROR, "telemetry.gauge_failed", "A gauge cannot be read; it keeps its last values.")


def error_type(error: BaseException) -> str:
    """Return the value of `error.type`: the code of the worker's own errors, else the error's class."""
    if isinstance(error, Refused | TemporarilyUnavailable | CallFailed):
        return error.code if error.code in RESULT_CODES else OTHER
    return type(error).__name__


def bounded_method(method: str) -> str:
    """Return the name of a known HTTP method."""
    return method if method in _METHODS else OTHER


@contextmanager
def timing(timer: Timer | None, *values: str) -> Iterator[None]:
    """Record the duration of the block, with the type of the error that ends it as the last value."""
    began, failure = time.perf_counter(), ""
    try:
        yield
    except BaseException as error:
        failure = error_type(error)
        raise
    finally:
        if timer is not None:
            timer.record(time.perf_counter() - began, *values, failure)
