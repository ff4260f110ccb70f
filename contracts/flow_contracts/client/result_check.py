"""Distinguishes the results of a client's own requests from forged ones, by the MAC under the request's reply key."""

from __future__ import annotations

import logging
from collections import OrderedDict

from pydantic import SecretStr

from flow_contracts.message import ReceivedMessage
from flow_contracts.reply_key import is_authentic, is_signed

_log = logging.getLogger(__name__)

_MAX_REMEMBERED = 1_000


class ResultCheck:
    """Checks results before anything parses them, and counts and logs those that it rejects."""

    def __init__(self, *, accept_unsigned: bool) -> None:
        """`accept_unsigned`: accept a result without a MAC, as a worker of a version without reply keys makes it."""
        self._accept_unsigned = accept_unsigned
        self._counted: OrderedDict[tuple[str | None, int], None] = OrderedDict()
        self.rejected = 0
        """The number of messages that were rejected. A message that a client peeks at again counts once."""

    def accepts(self, message: ReceivedMessage, reply_key: SecretStr | None) -> bool:
        """Return whether the message may be the result of a request with this key. None: the key is not known."""
        if reply_key is None or is_authentic(message, reply_key):
            return True
        if self._accept_unsigned and not is_signed(message):
            return True
        self._count(message)
        return False

    def _count(self, message: ReceivedMessage) -> None:
        place = (message.session_id, message.sequence_number)
        if place in self._counted:
            return
        self._counted[place] = None
        if len(self._counted) > _MAX_REMEMBERED:
            self._counted.popitem(last=False)
        self.rejected += 1
        # Only at 1, 2, 4, 8, …: a sender who floods the session must not flood the log.
        if self.rejected.bit_count() == 1:
            problem = "a wrong MAC" if is_signed(message) else "no MAC: it is forged, or its worker knows no reply keys"
            # %r: any sender can choose the IDs of a message, and a line break would forge a log line.
            _log.warning(
                "The client ignores a message for correlation ID %r that has %s. It has ignored %d of them.",
                message.correlation_id,
                problem,
                self.rejected,
            )
