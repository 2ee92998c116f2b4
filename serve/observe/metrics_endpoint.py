"""The HTTP endpoint that Prometheus reads metrics from, with TLS and a token if the settings say so."""

import contextlib
import hmac
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from serve.config import ServerConfig, host_and_port
from serve.observe.certificate import ServedCertificate

logger = logging.getLogger(__name__)

# A scrape takes milliseconds. These bounds are for connections that never finish, each of which takes a thread.
MAX_CONNECTION_COUNT = 32
CONNECTION_SECONDS = 10.0
POLL_SECONDS = 0.5  # between two looks at the age of connections


def serve_metrics(registry: CollectorRegistry, listen: str, config: ServerConfig) -> tuple[str, Callable[[], None]]:
    """Show metrics at HOST:PORT, in a thread; return their URL and a function that stops it.

    Args:
        config: Its metrics_tls, metrics_token and tls_ settings protect the metrics.
    Raises:
        SettingsError: If `listen` is no such address, or the certificate is unusable.
        OSError: If the address cannot be used.
    """
    host, port = host_and_port(listen)
    certificate = ServedCertificate(config, "metrics") if config.metrics_tls else None
    http = _Endpoint(host, port, _require_token(make_wsgi_app(registry), config.metrics_token), certificate)
    name = f"[{host}]" if ":" in host else host
    address = f"{'https' if certificate else 'http'}://{name}:{http.server_port}/metrics"
    thread = threading.Thread(target=http.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True)
    thread.start()
    logger.info("metrics served address=%s", address)

    def close() -> None:
        http.shutdown()
        http.server_close()
        thread.join()

    return address, close


def _require_token(app: Any, token: str) -> Any:
    """Wrap a WSGI application: refuse requests without the token; an empty token admits everybody."""
    wanted = f"Bearer {token}".encode()

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given = environ.get("HTTP_AUTHORIZATION", "").encode("utf-8", "surrogateescape")
        if token and not hmac.compare_digest(given, wanted):
            start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Type", "text/plain")])
            return [b"send the header Authorization: Bearer TOKEN, with server.metrics_token\n"]
        response: Iterable[bytes] = app(environ, start_response)
        return response

    return answer


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: Prometheus asks every few seconds."""


class _Endpoint(ThreadingMixIn, WSGIServer):
    """An HTTP server with a thread for each of a bounded number of connections."""

    daemon_threads = True
    request_queue_size = MAX_CONNECTION_COUNT

    def __init__(self, host: str, port: int, app: Any, certificate: ServedCertificate | None) -> None:
        self.address_family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._certificate = certificate
        self._lock = threading.Lock()
        self._begun: dict[socket.socket, float] = {}  # when each connection began, by the monotonic clock
        super().__init__(address[:2], _SilentHandler)  # type: ignore[arg-type]  # of both families
        self.set_app(app)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(CONNECTION_SECONDS)
        if self._certificate is not None:
            try:
                connection = self._certificate.context().wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            except BaseException:
                connection.close()
                raise
        with self._lock:
            self._begun[connection] = time.monotonic()
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self._begun) <= MAX_CONNECTION_COUNT

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection, in its thread. The TLS handshake is here too: it waits for the other side."""
        if isinstance(request, ssl.SSLSocket):
            request.do_handshake()
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: the other side broke off, was too slow, or speaks no TLS."""

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections that take too long. A byte now and then does not help them."""
        super().service_actions()
        limit = time.monotonic() - CONNECTION_SECONDS
        with self._lock:
            late = [connection for connection, begun in self._begun.items() if begun < limit]
            for connection in late:
                with contextlib.suppress(OSError):
                    # Of the TCP connection alone: its thread uses the TLS layer.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
