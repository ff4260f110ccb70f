"""The handshake before the first AMQP frame: protocol headers and SASL (part 2, section 2.2; part 5, section 5.3).

Every offered mechanism except PLAIN succeeds without a check. On Service Bus the client authenticates later and puts a
token to ``$cbs`` (Microsoft Learn, "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide").
"""

from collections.abc import Callable

from servicebus_emulator.amqp.errors import FRAMING_ERROR, NOT_ALLOWED, UNAUTHORIZED_ACCESS, AmqpError
from servicebus_emulator.amqp.framing import AMQP_HEADER, SASL_FRAME, SASL_HEADER, Frame, FrameDecoder, ProtocolHeader
from servicebus_emulator.amqp.output import Output
from servicebus_emulator.amqp.performatives import (
    SaslFrame,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    decode_sasl,
    encode_frame_body,
)

MECHANISMS = ("MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL")

_AUTHENTICATED = 0
_AUTHENTICATION_FAILED = 1


class Handshake:
    """Runs until both AMQP headers are exchanged, with or without SASL before them.

    ``check_password`` returns True for a valid name and password of SASL PLAIN.
    """

    def __init__(self, decoder: FrameDecoder, output: Output, check_password: Callable[[str, str], bool]) -> None:
        self._check_password = check_password
        self._decoder = decoder
        self._output = output
        self._sasl_started = False
        self._sasl_finished = False
        self.complete = False

    def handle(self, item: ProtocolHeader | Frame) -> None:
        """Answer a header or a SASL frame. Raises AmqpError if the handshake fails; the connection must then close."""
        if isinstance(item, ProtocolHeader):
            self._header(item.data)
        else:
            self._sasl_frame(item)

    def _header(self, header: bytes) -> None:
        if header == AMQP_HEADER:
            self._output.write(AMQP_HEADER)
            self.complete = True
        elif header == SASL_HEADER and not self._sasl_finished:
            self._output.write(SASL_HEADER)
            self._send(SaslMechanisms(MECHANISMS))
            self._sasl_started = True
        else:
            # The answer to an unknown header is the header of a supported protocol (part 2, section 2.2).
            self._output.write(AMQP_HEADER)
            raise AmqpError(FRAMING_ERROR, f"the protocol header {header!r} is not the one of AMQP 1.0")

    def _sasl_frame(self, frame: Frame) -> None:
        if frame.kind != SASL_FRAME or not self._sasl_started:
            raise AmqpError(FRAMING_ERROR, "a frame that is not SASL before the AMQP header")
        init = decode_sasl(frame.body)
        if not isinstance(init, SaslInit):
            raise AmqpError(NOT_ALLOWED, f"{type(init).__name__} where SaslInit is due")
        if init.mechanism not in MECHANISMS:
            self._send(SaslOutcome(_AUTHENTICATION_FAILED))
            raise AmqpError(UNAUTHORIZED_ACCESS, f"choose a SASL mechanism among {', '.join(MECHANISMS)}")
        if init.mechanism == "PLAIN" and not self._check_password(*_name_and_password(init.initial_response or b"")):
            self._send(SaslOutcome(_AUTHENTICATION_FAILED))
            raise AmqpError(UNAUTHORIZED_ACCESS, "the name or the password is wrong")
        # The outcome travels in a separate chunk: rhea hangs if it reads the outcome together with later bytes.
        self._output.seal()
        self._send(SaslOutcome(_AUTHENTICATED))
        self._output.seal()
        self._sasl_started, self._sasl_finished = False, True
        self._decoder.expect_header()

    def _send(self, frame: SaslFrame) -> None:
        self._output.write_frame(0, encode_frame_body(frame), kind=SASL_FRAME)


def _name_and_password(response: bytes) -> tuple[str, str]:
    """Split a PLAIN response (RFC 4616, section 2): authorization identity (unused), name, password, NUL between."""
    _, name, password = (*response.split(b"\0", 2), b"", b"")[:3]
    return name.decode(errors="replace"), password.decode(errors="replace")
