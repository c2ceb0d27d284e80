"""Reading requests from a connection that may be slow, silent or endless."""

from __future__ import annotations

import io
import socket
import time
from contextlib import suppress
from http.client import LineTooLong
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Clients drop a connection that they have not used for some seconds (httpx: 5); it must not be closed here first, or a
# request is lost that was sent at that moment.
IDLE_S = 75.0
REQUEST_S = 10.0  # from a request's first byte to its last
WRITE_S = 10.0
# Request line and headers; http.server allows a line 64 KiB and 100 headers.
REQUEST_BYTES = 192 << 10
_DRAINED_BYTES = 1 << 20
_DRAIN_S = 1.0


class RequestReader(io.RawIOBase):
    """Bytes of a connection under one limit of time for a whole request, not one for each byte.

    Args:
        connection: The connection.
    """

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self.begin(REQUEST_S)

    def begin(self, seconds: float, *, most_bytes: int = REQUEST_BYTES) -> None:
        """Allow so much from now on."""
        self._until_s = time.monotonic() + seconds
        self._left_bytes = most_bytes

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Bytes that have come.

        Raises:
            TimeoutError: The time is over.
            LineTooLong: The bytes are used up; http.server answers that headers are too large.
        """
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request took too long")
        if self._left_bytes <= 0:
            raise LineTooLong("request")
        self._connection.settimeout(left_s)
        count = self._connection.recv_into(memoryview(buffer)[: self._left_bytes])
        self._left_bytes -= count
        return count


def drain(connection: socket.socket) -> None:
    """Take what still comes after a refusal, within limits: closing at once could take the answer from the client."""
    until_s = time.monotonic() + _DRAIN_S
    left_bytes = _DRAINED_BYTES
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while left_bytes > 0 and (left_s := until_s - time.monotonic()) > 0:
            connection.settimeout(left_s)
            count = len(connection.recv(min(left_bytes, 1 << 16)))
            if not count:
                return
            left_bytes -= count
