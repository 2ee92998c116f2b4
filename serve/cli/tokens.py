"""`kinodex token`: make, list and revoke the tokens that a server asks for."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from serve.cli.options import library_options, load

DURATION = re.compile(r"([0-9]{1,6})([dh])")  # at most 2,737 years: a date can say that


def _file(data: Path | None, config: Path | None) -> Path:
    from serve.api.tokens import tokens_file

    directory, settings = load(data, config)
    return tokens_file(directory, settings.server)


def _now() -> datetime:
    return datetime.now(UTC)


def _expire_time(_ctx: click.Context, _option: click.Parameter, text: str) -> datetime | None:
    if text == "never":
        return None
    duration = DURATION.fullmatch(text)
    now = _now()
    try:
        if duration:
            hours = int(duration[1]) * {"d": 24, "h": 1}[duration[2]]
            time = now.replace(microsecond=0) + timedelta(hours=hours)
        else:
            time = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise click.BadParameter(f"must be like 30d, 12h, 2027-01-01 or never, got {text!r}") from error
    if time <= now:
        raise click.BadParameter(f"{text} is not in the future")
    return time


@click.group(
    epilog="""\b
Examples:
  kinodex token add laptop --collection talks         may ask about talks, and read what is in it
  kinodex token add ingest --all-collections --access write --expires 30d
  kinodex token list
  kinodex token revoke laptop

\b
A server lets in whoever shows a token, once there is a tokens file. It takes up every change at once.
A revoked last token leaves an empty file, which lets nobody in."""
)
def token() -> None:
    """Make, list and revoke the tokens of a server's callers."""


@token.command(
    epilog="""\b
Examples:
  kinodex token add laptop --collection talks --collection lectures
  kinodex token add ingest --all-collections --access write --expires 30d
  KINODEX_CLIENT_TOKEN=$(kinodex token add laptop --all-collections)

\b
Standard output is the token and nothing else. It is shown this once: only its hash is kept."""
)
@click.argument("name", metavar="NAME")
@click.option("--collection", "collections", metavar="C", multiple=True, help="It opens this collection (repeatable).")
@click.option("--all-collections", is_flag=True, help="It opens every collection, those to come included.")
@click.option(
    "--access",
    type=click.Choice(["read", "write"]),
    default="read",
    show_default=True,
    help="read asks and looks; write also adds and deletes videos.",
)
@click.option(
    "--expires",
    "expire_time",
    metavar="WHEN",
    default="never",
    show_default=True,
    callback=_expire_time,
    help="30d, 12h, the beginning (UTC) of 2027-01-01, or never.",
)
@library_options
def add(
    name: str,
    collections: tuple[str, ...],
    all_collections: bool,
    access: str,
    expire_time: datetime | None,
    data: Path | None,
    config: Path | None,
) -> None:
    """Make a token, and print it."""
    if bool(collections) == all_collections:
        raise click.UsageError("say what the token opens: --collection C, repeatable, or --all-collections")
    from serve.api.tokens import create_token

    path = _file(data, config)
    try:
        text = create_token(
            path,
            name,
            collections=None if all_collections else collections,
            can_write=access == "write",
            expire_time=expire_time,
            now=_now(),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(text)
    what = "every collection" if all_collections else ", ".join(sorted(set(collections)))
    click.echo(
        f"kinodex: {name} may {access} {what}, {_until(expire_time)}; its hash is in {path}\n"
        "kinodex: keep the token, it is not shown again; callers set it as client.token or $KINODEX_CLIENT_TOKEN",
        err=True,
    )


def _until(time: datetime | None) -> str:
    return "for ever" if time is None else f"until {time:%Y-%m-%d %H:%M} UTC"


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, one object a line.")
@library_options
def list_(as_json: bool, data: Path | None, config: Path | None) -> None:
    """List the tokens, expired ones included. What the tokens are is not known."""
    from serve.api.tokens import list_tokens, token_json
    from serve.text import printable

    path = _file(data, config)
    tokens = list_tokens(path) if path.exists() else ()
    if not tokens:
        click.echo(f"kinodex: no tokens in {path} (kinodex token add NAME)", err=True)
    width = max((len(each.name) for each in tokens), default=0)
    for each in tokens:
        if as_json:
            click.echo(json.dumps(token_json(each)))
            continue
        has_expired = each.expire_time is not None and each.expire_time <= _now()
        until = f"expired {each.expire_time:%Y-%m-%d %H:%M} UTC" if has_expired else _until(each.expire_time)
        what = "every collection" if each.collections is None else printable(", ".join(sorted(each.collections)))
        access = "write" if each.can_write else "read"
        click.echo(
            f"{each.token_id}  {each.name:{width}}  {access:5}  {each.created_time:%Y-%m-%d}  {until:28}  {what}"
        )


@token.command()
@click.argument("name_or_id", metavar="NAME|ID")
@library_options
def revoke(name_or_id: str, data: Path | None, config: Path | None) -> None:
    """Make a token worthless, from the next call on."""
    from serve.api.tokens import revoke_token

    revoked = revoke_token(_file(data, config), name_or_id)
    click.echo(f"revoked {revoked.name} ({revoked.token_id})")
