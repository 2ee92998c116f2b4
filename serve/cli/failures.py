"""Every failure of the command is one line on standard error.

Exit status: 2 the command line is wrong, 1 the work failed, 130 Ctrl-C.
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

DEBUG = "kinodex.debug"  # in the click context's meta
INTERRUPTED = 130  # the shell's exit status for a command that Ctrl-C ended


class OneLineGroup(click.Group):
    """A group of commands whose every failure is one line on standard error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # as written: the way from nothing to an answer, not the alphabet

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:  # the edge: nothing is above this to handle it
            debug = bool(ctx.meta.get(DEBUG))
            if debug:
                traceback.print_exc()
            raise click.ClickException(_explain(error, debug)) from error

    def main(  # type: ignore[override]  # it always exits; the flag is click's, and is not for us
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
            # The reader (head, less) has seen enough. What is still buffered must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        sys.exit(status if isinstance(status, int) else 0)


def _explain(error: Exception, debug: bool) -> str:
    if isinstance(error, VideoNotFound):
        return f"{error}: see `kinodex list`"
    if isinstance(error, IngestError | EncoderError | TemporalError | ServeError):
        return str(error)
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    advice = "" if debug else "; run again with --debug"
    return f"internal error: {type(error).__name__}: {error}{advice}"


def _one_line(error: click.ClickException) -> str:
    message = printable(error.format_message())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message = f"{message.rstrip('.')} (see {error.ctx.command_path} --help)"
    return message


def _debug(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[DEBUG] = True
        logging.getLogger().setLevel(logging.INFO)
        warnings.simplefilter("default")


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show the traceback of a failure, and logs."
)
