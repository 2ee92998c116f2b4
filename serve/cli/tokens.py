"""`kinodex token`: creates, lists, rotates and revokes the tokens with which callers reach a server."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve.cli.audit import audited
from serve.cli.options import json_option, library_options, load_library_settings

if TYPE_CHECKING:
    from serve.config import ServerConfig

DURATION = re.compile(r"([0-9]{1,6})([dh])")  # days or hours; six digits end before the year 9999, Python's last
STORE_IT = "kinodex: store the token, it is not shown again; callers set it as client.token or $KINODEX_CLIENT_TOKEN"


def _tokens_file(data: Path | None, config: Path | None) -> "tuple[Path, ServerConfig, Path]":
    """Return the path of the tokens, the settings of the server that reads them, and the folder of their uses."""
    from serve.api.tokens import tokens_file
    from serve.observe.token_uses import FOLDER_NAME

    directory, settings = load_library_settings(data, config)
    return tokens_file(directory, settings.server), settings.server, directory / FOLDER_NAME


def _now() -> datetime:
    return datetime.now(UTC)


def _parse_expiry(_ctx: click.Context, _option: click.Parameter, text: str) -> datetime | None:
    """Read the value of --expires; None: the token never expires."""
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
  kinodex token add laptop --collection talks         may search and read the collection talks
  kinodex token add ingest --all-collections --access write --expires 30d
  kinodex token list
  kinodex token rotate laptop                         a new token; the old one stays valid for a day
  kinodex token revoke laptop

\b
As soon as a tokens file exists, the server accepts only calls with a valid token. A change holds from the
next call on. After the last token is revoked the file is empty, and the server accepts no call."""
)
def token() -> None:
    """Create, list, rotate and revoke access tokens."""


@token.command(
    epilog="""\b
Examples:
  kinodex token add laptop --collection talks --collection lectures
  kinodex token add ingest --all-collections --access write --expires 30d
  KINODEX_CLIENT_TOKEN=$(kinodex token add laptop --all-collections)

\b
Standard output is the token and nothing else. The token is shown only now: the file stores its hash."""
)
@click.argument("name", metavar="NAME")
@click.option("--collection", "collections", metavar="C", multiple=True, help="Allow this collection. Repeatable.")
@click.option("--all-collections", is_flag=True, help="Allow every collection, future ones too.")
@click.option(
    "--access",
    type=click.Choice(["read", "write"]),
    default="read",
    show_default=True,
    help="read: search and read; write: also add and delete videos.",
)
@click.option(
    "--expires",
    "expire_time",
    metavar="WHEN",
    default="never",
    show_default=True,
    callback=_parse_expiry,
    help="30d, 12h, 2027-01-01 (the start of that day, UTC), or never.",
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
    """Create a token and print it."""
    if bool(collections) == all_collections:
        raise click.UsageError("say what the token allows: --collection C, repeatable, or --all-collections")
    from serve.api.tokens import create_token
    from serve.text import printable

    path, server, _ = _tokens_file(data, config)
    try:
        with audited(server, "kinodex token add") as subject:
            subject.add(name=name)
            for collection in ("*",) if all_collections else collections:
                subject.add(collection=collection)
            text = create_token(
                path,
                name,
                collections=None if all_collections else collections,
                can_write=access == "write",
                expire_time=expire_time,
                now=_now(),
            )
            subject.add(name=text.split("_")[1])
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(text)
    place = printable(str(path))
    scope = "every collection" if all_collections else ", ".join(sorted(set(collections)))
    click.echo(
        f"kinodex: {name} may {access} {scope}, {_expiry_text(expire_time)}; its hash is in {place}\n{STORE_IT}",
        err=True,
    )


def _expiry_text(time: datetime | None) -> str:
    return "for ever" if time is None else f"until {time:%Y-%m-%d %H:%M} UTC"


@token.command("list")
@json_option
@library_options
def list_(as_json: bool, data: Path | None, config: Path | None) -> None:
    """List the tokens, expired tokens too, and when each was last used.

    The file stores only the hashes of the tokens. The last use is that at servers of this data directory, to the
    minute. With --json, one object for each token, on a line of its own.
    """
    from serve.api.tokens import list_tokens, token_json
    from serve.observe.token_uses import last_uses
    from serve.text import printable

    path, _, uses_folder = _tokens_file(data, config)
    tokens = list_tokens(path) if path.exists() else ()
    if not tokens:
        click.echo(f"kinodex: no tokens in {printable(str(path))}; create one: kinodex token add NAME", err=True)
    uses = last_uses(uses_folder)
    width = max((len(each.name) for each in tokens), default=0)
    for each in tokens:
        used = uses.get(each.token_id)
        if as_json:
            last_used = None if used is None else used.isoformat(timespec="seconds")
            click.echo(json.dumps({**token_json(each), "last_used": last_used}))
            continue
        has_expired = each.expire_time is not None and each.expire_time <= _now()
        expiry = f"expired {each.expire_time:%Y-%m-%d %H:%M} UTC" if has_expired else _expiry_text(each.expire_time)
        scope = "every collection" if each.collections is None else printable(", ".join(sorted(each.collections)))
        access = "write" if each.can_write else "read"
        use = "never used" if used is None else f"used {used:%Y-%m-%d %H:%M} UTC"
        click.echo(
            f"{each.token_id}  {each.name:{width}}  {access:5}  {each.created_time:%Y-%m-%d}  {expiry:28}  {use:25}"
            f"  {scope}"
        )


def _parse_overlap(_ctx: click.Context, _option: click.Parameter, text: str) -> timedelta:
    duration = DURATION.fullmatch(text)
    if not duration:
        raise click.BadParameter(f"must be like 24h, 7d or 0h, got {text!r}")
    return timedelta(hours=int(duration[1]) * {"d": 24, "h": 1}[duration[2]])


@token.command(
    epilog="""\b
Examples:
  kinodex token rotate laptop
  kinodex token rotate laptop --overlap 0h            the old token is refused from the next call on

\b
Standard output is the new token and nothing else. It has the name and the rights of the old one, and lasts as
long as the old one was made for."""
)
@click.argument("name_or_id", metavar="NAME|ID")
@click.option(
    "--overlap",
    metavar="TIME",
    default="24h",
    show_default=True,
    callback=_parse_overlap,
    help="How long the old token stays valid: 24h, 7d, 0h.",
)
@library_options
def rotate(name_or_id: str, overlap: timedelta, data: Path | None, config: Path | None) -> None:
    """Replace a token by a new one, and print that."""
    from serve.api.tokens import rotate_token

    path, server, _ = _tokens_file(data, config)
    with audited(server, "kinodex token rotate") as subject:
        subject.add(name=name_or_id)
        text, new = rotate_token(path, name_or_id, overlap=overlap, now=_now())
        for name in (new.name, new.token_id):
            subject.add(name=name)
    click.echo(text)
    ends = "is refused now" if not overlap else f"stays valid until {_now() + overlap:%Y-%m-%d %H:%M} UTC at most"
    click.echo(
        f"kinodex: {new.name} has a new token, {_expiry_text(new.expire_time)}; the old one {ends}\n{STORE_IT}",
        err=True,
    )


@token.command()
@click.argument("name_or_id", metavar="NAME|ID")
@library_options
def revoke(name_or_id: str, data: Path | None, config: Path | None) -> None:
    """Revoke a token, from the next call on. A NAME revokes the tokens before its rotations too."""
    from serve.api.tokens import revoke_token
    from serve.observe.token_uses import forget_uses

    path, server, uses_folder = _tokens_file(data, config)
    with audited(server, "kinodex token revoke") as subject:
        subject.add(name=name_or_id)
        revoked = revoke_token(path, name_or_id)
        forget_uses(uses_folder, [each.token_id for each in revoked])
        for each in revoked:
            subject.add(name=each.name)
            subject.add(name=each.token_id)
    for each in revoked:
        click.echo(f"revoked {each.name} ({each.token_id})")
