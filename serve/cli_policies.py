"""`kinodex policies`: check a file of moderation policies, and see what is in it."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from serve.failures import debug_option
from serve.options import json_option


@click.command(
    epilog="""\b
Examples:
  kinodex policies                         what the starter set looks and listens for
  kinodex policies --print > mine.yaml     a copy to change; the format is explained in it
  kinodex policies mine.yaml               is it right? the first mistake comes with line and field
"""
)
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--print", "is_printed", is_flag=True, help="Print the file as it is, if it is right.")
@json_option
@debug_option
def policies(file: Path | None, is_printed: bool, as_json: bool) -> None:
    """Check a file of moderation policies; without one, show the starter set.

    The starter set is a screen and not a judge: what it finds is to be looked at by a person. Nothing scores videos by
    policies yet.
    """
    from rich.console import Console
    from rich.table import Table

    from serve.policies import STARTER, read_policies

    path = file or STARTER
    found = read_policies(path)
    if is_printed:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return
    table = Table("id", "label", "prompts", "terms", "enter", "leave", "action", box=None)
    for one in found.policies:
        label = " > ".join((*one.parents, one.label))
        terms = len(one.says) + len(one.patterns)
        table.add_row(
            one.policy_id, label, f"{len(one.shows)} - {len(one.unlike)}", str(terms), f"{one.enter:g}",
            f"{one.leave:g}", one.action,
        )  # fmt: skip
    Console().print(table)
    click.echo(f"version {found.version}: {len(found.policies)} policies, no mistakes")
