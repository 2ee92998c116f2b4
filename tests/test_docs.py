"""The README and the program say the same."""

import re
from pathlib import Path

import click
import pytest

import ingest.errors
from serve.cli import cli
from serve.settings import known_settings, variable_name

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(known_settings()))
def test_every_setting_is_in_the_readme(name: str) -> None:
    assert f"| `{name}` | `{variable_name(name)}` |" in README


def test_the_readme_names_no_setting_that_is_not() -> None:
    assert set(re.findall(r"^\| `([a-z_.]+)` \| `KINODEX_", README, re.MULTILINE)) == set(known_settings())


@pytest.mark.parametrize(
    "error",
    sorted(
        name
        for name, kind in vars(ingest.errors).items()
        if isinstance(kind, type) and issubclass(kind, ingest.errors.IngestError) and not kind.__subclasses__()
    ),
)
def test_every_way_an_input_fails_is_in_the_readme(error: str) -> None:
    assert f"`{error}`" in README


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_is_in_the_readme_and_teaches(command: str) -> None:
    assert re.search(rf"\b{command}\b", README)
    assert (cli.commands[command].help or "").strip()
    assert isinstance(cli.commands[command], click.Command)


def test_every_file_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
