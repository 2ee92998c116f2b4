"""An HTTP server that receives webhooks."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


@dataclass
class Receiver:
    """The answers of the server, and the requests that it received."""

    answers: list[int] = field(default_factory=list)  # status codes of the next requests; then 204
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)  # headers in lower case, body
    url: str = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.requests.append(({key.lower(): value for key, value in self.headers.items()}, body))
            code = receiver.answers.pop(0) if receiver.answers else 204
            self.send_response(code)
            if code == 302:
                self.send_header("location", receiver.url)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/events"
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()
