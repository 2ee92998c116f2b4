"""An HTTP server that receives webhooks."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


@dataclass
class Receiver:
    """An HTTP server that answers as told, and notes what came."""

    answers: list[int] = field(default_factory=list)  # status codes; then 204
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.came.append(({key.lower(): value for key, value in self.headers.items()}, body))
            code = found.answers.pop(0) if found.answers else 204
            self.send_response(code)
            if code == 302:
                self.send_header("location", found.url)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/events"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()
