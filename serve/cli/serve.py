"""`kinodex serve`: runs the server."""

import dataclasses
import sys
from pathlib import Path

import click

from serve.cli.options import library_options, load_library_settings
from serve.config import LARGEST_PORT, ServerConfig, host_and_port


@click.command(
    epilog="""\b
Examples:
  kinodex serve --data /srv/library
  kinodex serve --open                                with the console in the browser: 127.0.0.1:8971
  kinodex serve --listen 127.0.0.1:0                  on any free port, which is printed
  kinodex serve --kafka broker:9092                   with the live streams of the workers
  kinodex search "a boat" --server 127.0.0.1:8970     ask the server from another terminal
  grpcurl -plaintext 127.0.0.1:8970 list              or with any gRPC client

\b
The server listens beyond this machine only with TLS and authentication: set server.tls_certificate and
server.tls_key, and run `kinodex token add`.

\b
With --kafka the library also holds the live streams of the workers, within seconds. Any number of servers
can read them, each with its own folder. A lost folder is built again from Kafka. The server answers once
it has read all of Kafka's segments. Before the first start, run `kinodex topics`, and use the models of
the workers. server.retention says how long this server stores live videos, `kinodex retention` how long
all of them do.

\b
Exit status: 0 after SIGTERM or Ctrl-C; 1 it could not start, or its topics were deleted and created again."""
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Address of gRPC; HTTP takes the next port.  [default: server.listen, 127.0.0.1:8970]",
)
@click.option("--kafka", "servers", metavar="SERVERS", help="Kafka's brokers, HOST:PORT,...  [default: kafka.servers]")
@click.option("--open", "is_opened", is_flag=True, help="Open the console in the web browser.")
@library_options
def serve(listen: str | None, servers: str | None, is_opened: bool, data: Path | None, config: Path | None) -> None:
    """Serve a library over gRPC and HTTP, with a console for the browser.

    Prints its addresses. Logs go to standard error. Videos that another process indexes into the same library are found
    by the next question.
    """
    directory, settings = load_library_settings(data, config)
    if is_opened and not settings.server.http_listen:
        raise click.UsageError("--open needs HTTP, which server.http_listen turns off")
    if listen is not None:
        settings = dataclasses.replace(settings, server=listen_at(settings.server, listen))
    import asyncio

    from serve.api.build import run_server
    from serve.api.server import Server
    from serve.console.http_server import HttpServer, open_http
    from serve.observe.logs import log_to_stderr
    from serve.settings import with_kafka_servers

    settings = with_kafka_servers(settings, servers)
    log_to_stderr()

    opened: list[HttpServer] = []

    def open_console(server: Server) -> HttpServer | None:
        http = open_http(server)
        opened.extend([] if http is None else [http])
        return http

    def announce(address: str) -> None:
        click.echo(f"listening on {address}")
        for http in opened:
            click.echo(f"console on {http.url}")
            if is_opened:
                click.launch(http.url)
        sys.stdout.flush()  # a parent process may wait for this line in a pipe

    asyncio.run(run_server(directory, settings, config, announce, open_http=open_console))


def listen_at(config: ServerConfig, listen: str) -> ServerConfig:
    """Move a server to another address. HTTP moves to the port after it, unless the settings name an address for it.

    So several servers on one machine need nothing but their --listen. Any free port stays any free port.
    """
    if config.http_listen == ServerConfig().http_listen and not listen.startswith("unix"):
        _, port = host_and_port(listen)
        if port < LARGEST_PORT:
            config = dataclasses.replace(config, http_listen=f"127.0.0.1:{port + 1 if port else 0}")
    return dataclasses.replace(config, listen=listen)
