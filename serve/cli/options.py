"""Options that several commands share, and the settings they lead to."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from serve.cli.failures import debug_option

if TYPE_CHECKING:
    from serve.search.library import Library
    from serve.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


def config_option(default: str) -> Callable[[Function], Function]:
    """Return the option that names the settings file; `default` is the text of its help."""
    return click.option(
        "--config", metavar="FILE", type=click.Path(path_type=Path), help=f"Settings file, TOML.  [default: {default}]"
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
            help="Folder of the library.  [default: $KINODEX_DATA, then ./kinodex-data]",
        ),
    ):
        command = option(command)
    return command


def question_options(command: Function) -> Function:
    """Add the argument and options of the commands that ask questions."""
    for option in (
        json_option,
        click.option(
            "--server",
            metavar="ADDR",
            help="Ask a server: HOST:PORT, grpc://HOST:PORT (plain) or grpcs://HOST:PORT (TLS).",
        ),
        click.option(
            "--sheet",
            metavar="FILE.png",
            type=click.Path(path_type=Path),
            help="Draw the answers as one picture, with times, words and scores.",
        ),
        click.option("--collection", metavar="C", help="Search only this collection."),
        click.option(
            "--channel",
            type=click.Choice(["visual", "speech", "text", "all"]),
            default="all",
            show_default=True,
            help="Search the pictures, the speech, the text in pictures, or all.",
        ),
        click.option(
            "--speaker",
            metavar="N|NAME",
            default="",
            help="Search only what this speaker says: a number in each video, or a name (kinodex speakers).",
        ),
        click.option(
            "--limit", metavar="N", type=click.IntRange(min=1), default=10, show_default=True, help="Most answers."
        ),
        click.option("--image", metavar="FILE", type=click.Path(path_type=Path), help="Search by a picture."),
        click.argument("text", metavar="[QUERY]", required=False),
    ):
        command = option(command)
    return command


def load_library_settings(data: Path | None, config: Path | None, *, is_local: bool = True) -> "tuple[Path, Settings]":
    """Return the folder of the library, and the settings, by the values of --data and --config.

    Only of a library in that folder (`is_local`), and not on a server, is its kinodex.toml read.
    """
    from serve.settings import data_directory, load_settings

    directory = data_directory(data)
    return directory, load_settings(directory if is_local else None, config)


@contextlib.contextmanager
def local_library(data: Path | None, config: Path | None) -> "Iterator[Library]":
    directory, settings = load_library_settings(data, config)
    from serve.search.library import Library

    with contextlib.closing(Library.open(directory, settings)) as library:
        yield library
