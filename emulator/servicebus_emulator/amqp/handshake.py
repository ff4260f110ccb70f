"""What two ends say before the first AMQP frame: protocol headers and SASL (part 2, section 2.2; part 5, section 5.3).

Any mechanism on offer but PLAIN is accepted unseen: on Service Bus the proof is a token put to ``$cbs`` later on.
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
    """Takes part until both AMQP headers are exchanged, with or without SASL before them.

    ``log_in``: whether a name and a password, which came by PLAIN, are good.
    """

    def __init__(self, decoder: FrameDecoder, output: Output, log_in: Callable[[str, str], bool]) -> None:
        self._log_in = log_in
        self._decoder = decoder
        self._output = output
        self._sasl_is_open = False
        self._sasl_is_over = False
        self.done = False

    def handle(self, item: ProtocolHeader | Frame) -> None:
        """Answer. Raises AmqpError when the two ends cannot come together; the connection is then over."""
        if isinstance(item, ProtocolHeader):
            self._header(item.data)
        else:
            self._sasl_frame(item)

    def _header(self, header: bytes) -> None:
        if header == AMQP_HEADER:
            self._output.write(AMQP_HEADER)
            self.done = True
        elif header == SASL_HEADER and not self._sasl_is_over:
            self._output.write(SASL_HEADER)
            self._send(SaslMechanisms(MECHANISMS))
            self._sasl_is_open = True
        else:
            self._output.write(AMQP_HEADER)
            raise AmqpError(FRAMING_ERROR, f"the protocol header {header!r} is not the one of AMQP 1.0")

    def _sasl_frame(self, frame: Frame) -> None:
        if frame.kind != SASL_FRAME or not self._sasl_is_open:
            raise AmqpError(FRAMING_ERROR, "a frame that is not SASL before the AMQP header")
        init = decode_sasl(frame.body)
        if not isinstance(init, SaslInit):
            raise AmqpError(NOT_ALLOWED, f"{type(init).__name__} where SaslInit is due")
        if init.mechanism not in MECHANISMS:
            self._send(SaslOutcome(_AUTHENTICATION_FAILED))
            raise AmqpError(UNAUTHORIZED_ACCESS, f"choose a SASL mechanism among {', '.join(MECHANISMS)}")
        if init.mechanism == "PLAIN" and not self._log_in(*_name_and_password(init.initial_response or b"")):
            self._send(SaslOutcome(_AUTHENTICATION_FAILED))
            raise AmqpError(UNAUTHORIZED_ACCESS, "the name or the password is wrong")
        # A peer that reads the outcome together with what follows it may wait for ever (rhea does), so it goes alone.
        self._output.seal()
        self._send(SaslOutcome(_AUTHENTICATED))
        self._output.seal()
        self._sasl_is_open, self._sasl_is_over = False, True
        self._decoder.expect_header()

    def _send(self, frame: SaslFrame) -> None:
        self._output.write_frame(0, encode_frame_body(frame), kind=SASL_FRAME)


def _name_and_password(response: bytes) -> tuple[str, str]:
    """RFC 4616, section 2: authorization identity (unused), name and password, with NUL between them."""
    _, name, password = (*response.split(b"\0", 2), b"", b"")[:3]
    return name.decode(errors="replace"), password.decode(errors="replace")
