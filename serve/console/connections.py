"""HttpConnection: uvicorn's HTTP/1.1 connection with bounds on slow clients, and the name in a client's certificate."""

import asyncio
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# For the headers of a request, from its first byte or from the connection on; and for the rest of a request that was
# answered before it had arrived, as those of callers without a token are.
HEADER_SECONDS = 10.0
# A client that reads nothing, or fewer than 1 KiB a second, is cut off: the system has buffered enough by then.
STALL_SECONDS = 60.0
KEEPALIVE_SECONDS = 60  # without a byte, until the system asks whether the other side is still there


class HttpConnection(H11Protocol):
    """One connection."""

    max_connection_count = 0  # of all that are open; 0: any number
    _header_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.max_connection_count and len(self.connections) > self.max_connection_count:
            transport.abort()
            return
        self._set_keepalive(transport.get_extra_info("socket"))
        self.app_state = {"certificate_names": certificate_names(transport.get_extra_info("peercert"))}
        self._watch_headers()

    def data_received(self, data: bytes) -> None:
        """Take bytes. A client that sends its next request before the answer is cut off: uvicorn would store them all.

        No browser and no usual client does (HTTP pipelining).
        """
        if self.conn.their_state is h11.DONE:
            self.transport.abort()
            return
        super().data_received(data)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_timers()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_headers()

    def _watch_headers(self) -> None:
        """Time a request that nobody waits for but this connection. uvicorn times only the pause between requests."""
        theirs, is_answered = self.conn.their_state, self.conn.our_state is h11.DONE
        is_late = (theirs is h11.IDLE and self.timeout_keep_alive_task is None) or (
            theirs is h11.SEND_BODY and is_answered
        )
        if is_late and self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)
        elif not is_late and self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _unset_timers(self) -> None:
        for timer in (self._header_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._header_timer = self._stall_timer = None

    @staticmethod
    def _set_keepalive(connected: socket.socket | None) -> None:
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)


def certificate_names(certificate: dict[str, Any] | None) -> tuple[bytes, ...]:
    """Return the names in a client's certificate as gRPC has them: its alternative names, or else its common name."""
    if not certificate:
        return ()
    names = [name for _, name in certificate.get("subjectAltName", ()) if isinstance(name, str)]
    if not names:
        subject = [pair for part in certificate.get("subject", ()) for pair in part]
        names = [value for key, value in subject if key == "commonName"]
    return tuple(name.encode() for name in names)
