"""`kinodex serve`: the gRPC server."""

import dataclasses
import sys
from pathlib import Path

import click

from serve.cli.options import library_options, load


@click.command(
    epilog="""\b
Examples:
  kinodex serve --data /srv/library
  kinodex serve --listen 127.0.0.1:0                  any free port; it is printed
  kinodex serve --kafka broker:9092                   live streams too, as workers publish them
  kinodex search "a boat" --server 127.0.0.1:8970     ask it from another terminal
  grpcurl -plaintext 127.0.0.1:8970 list              or with any gRPC client

\b
Beyond this machine it listens only with TLS and authentication: set server.tls_certificate and
server.tls_key, and run `kinodex token add` (README, "Serve").

\b
With --kafka the library also holds what workers make of live streams, within seconds. Any number of
servers may do so, each with a data directory of its own; one that is lost is made anew from Kafka.
A server answers once it has read all that Kafka holds, so `kinodex topics` and models like the workers'
come first. server.retention says how long live videos are kept.

\b
Exit status: 0 after SIGTERM or Ctrl-C; 1 it could not start, or its topics were made anew."""
)
@click.option("--listen", metavar="HOST:PORT", help="Where to listen.  [default: server.listen, 127.0.0.1:8970]")
@click.option(
    "--kafka", "servers", metavar="SERVERS", help="HOST:PORT,... of Kafka's brokers.  [default: kafka.servers, none]"
)
@library_options
def serve(listen: str | None, servers: str | None, data: Path | None, config: Path | None) -> None:
    """Answer questions over gRPC, and take videos in.

    Prints the address it listens on; logs go to standard error. Videos that another process indexes into the same
    library are found within two seconds.
    """
    directory, settings = load(data, config)
    if listen is not None:
        settings = dataclasses.replace(settings, server=dataclasses.replace(settings.server, listen=listen))
    import asyncio

    from serve.api.build import run_server
    from serve.observe.logs import log_to_stderr
    from serve.settings import with_kafka_servers

    settings = with_kafka_servers(settings, servers)
    log_to_stderr()

    def announce(address: str) -> None:
        click.echo(f"listening on {address}")
        sys.stdout.flush()  # whoever started us may be waiting for this line in a pipe

    asyncio.run(run_server(directory, settings, config, announce))
