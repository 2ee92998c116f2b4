"""Options that several commands share, and what reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from serve.cli.failures import debug_option

if TYPE_CHECKING:
    from serve.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


def config_option(default: str) -> Callable[[Function], Function]:
    """Return the option that names the settings file, which is by default as its help then says."""
    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help=f"Settings in TOML.  [default: {default}]",
    )


def library_options(command: Function) -> Function:
    """Add the options of every command that works on a library."""
    for option in (
        debug_option,
        config_option("$KINODEX_CONFIG, then DIR/kinodex.toml"),
        click.option(
            "--data",
            metavar="DIR",
            type=click.Path(path_type=Path, file_okay=False),
            help="Where the library is.  [default: $KINODEX_DATA, then ./kinodex-data]",
        ),
    ):
        command = option(command)
    return command


def question_options(command: Function) -> Function:
    """Add the argument and options of the commands that ask."""
    for option in (
        json_option,
        click.option(
            "--server",
            metavar="ADDR",
            help="Ask the library of this server: HOST:PORT, grpc://HOST:PORT (plain) or grpcs://HOST:PORT (TLS).",
        ),
        click.option(
            "--sheet",
            metavar="FILE.png",
            type=click.Path(path_type=Path),
            help="Draw a contact sheet of the answers: pictures, times, words and scores.",
        ),
        click.option("--collection", metavar="C", help="Ask this collection only."),
        click.option(
            "--channel",
            type=click.Choice(["visual", "speech", "all"]),
            default="all",
            show_default=True,
            help="Ask what is seen, what is said, or both.",
        ),
        click.option(
            "--limit", metavar="N", type=click.IntRange(min=1), default=10, help="How many answers.  [default: 10]"
        ),
        click.option("--image", metavar="FILE", type=click.Path(path_type=Path), help="Ask by a picture's content."),
        click.argument("text", metavar="[QUERY]", required=False),
    ):
        command = option(command)
    return command


def load(data: Path | None, config: Path | None, *, is_local: bool = True) -> "tuple[Path, Settings]":
    """Say where the library is and which settings hold.

    Args:
        is_local: Whether the library is there, and its own kinodex.toml counts.
    """
    from serve.settings import data_directory, load_settings

    directory = data_directory(data)
    return directory, load_settings(directory if is_local else None, config)  # a server's library is not this one
