"""Turns every failure of the command into one line on standard error, and sets the exit status.

The exit status is 2 for a wrong command line, 1 if the work failed, and 130 after Ctrl-C.
"""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from encoders.errors import EncoderError
from ingest.errors import IngestError
from serve.errors import ServeError, VideoNotFound
from serve.text import printable
from temporal.errors import TemporalError

DEBUG = "kinodex.debug"  # key in the meta of click's context: whether --debug was given
UNDECODABLE = frozenset(map(chr, range(0xDC80, 0xDD00)))  # how Python spells bytes of arguments that are not UTF-8
INTERRUPTED = 130  # the exit status of shells for a command that Ctrl-C ended


class OneLineGroup(click.Group):
    """A group of commands that prints every failure as one line on standard error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of their definition, from indexing to answers; click sorts by name

    def invoke(self, ctx: click.Context) -> Any:
        try:
            os.getcwd()  # libraries of torch end the process where there is none
        except OSError as error:
            raise click.ClickException(f"the current folder is gone ({error.strerror}): change to another") from error
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:  # the outermost handler: unknown errors end here
            debug = bool(ctx.meta.get(DEBUG))
            if debug:
                traceback.print_exc()
            raise click.ClickException(_explain(error, debug)) from error

    def main(  # type: ignore[override]  # always exits; click's `standalone_mode` would allow it to return
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        try:
            status = super().main(args, prog_name, **{**extra, "standalone_mode": False})
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            status = error.exit_code
        except click.ClickException as error:
            click.echo(f"kinodex: error: {_one_line(error)}", err=True)
            status = error.exit_code
        except click.Abort:
            click.echo("kinodex: stopped", err=True)
            status = INTERRUPTED
        except BrokenPipeError:
            # The reader (head, less) closed the pipe. Flushing the rest of the output at exit must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        sys.exit(status if isinstance(status, int) else 0)


def _explain(error: Exception, debug: bool) -> str:
    """Return the message for a failure. Errors that are not ours get the advice to run with --debug."""
    if isinstance(error, VideoNotFound):
        return f"{error}: see `kinodex list`"
    if isinstance(error, IngestError | EncoderError | TemporalError | ServeError):
        return str(error)
    if isinstance(error, OSError):
        file = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{file}"
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] in UNDECODABLE:
        return f"not UTF-8 text: {error.object}"
    advice = "" if debug else "; run again with --debug"
    return f"internal error: {type(error).__name__}: {error}{advice}"


def _one_line(error: click.ClickException) -> str:
    message = printable(error.format_message())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message = f"{message.rstrip('.')} (see {error.ctx.command_path} --help)"
    return message


def _turn_on_debugging(ctx: click.Context, _option: click.Parameter, is_on: bool) -> None:
    if is_on:
        ctx.meta[DEBUG] = True
        logging.getLogger().setLevel(logging.INFO)
        warnings.simplefilter("default")


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_turn_on_debugging,
    help="Show logs, and tracebacks of failures.",
)
