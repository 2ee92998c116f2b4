"""The README and the program say the same."""

import re
import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from google.rpc import code_pb2

import ingest.errors
from serve.api.cache_counts import CacheCounts
from serve.api.status import INTERNAL, STATUS
from serve.cli.main import cli
from serve.event import Event
from serve.moderation.policies import Policies, Policy
from serve.observe.metrics import ServerMetrics
from serve.observe.worker_metrics import WorkerMetrics
from serve.search.caches import SingleFlightCache
from serve.settings import known_settings, variable_name
from serve.values import MatchedWord

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


@pytest.mark.parametrize("folder", [".", "protos"])
def test_every_file_a_readme_links_to_is_there(folder: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / folder / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / folder / link).exists()] == []


@pytest.mark.parametrize(
    ("command", "kind"), [("events", Event), ("events", MatchedWord), ("policies", Policy), ("policies", Policies)]
)
def test_every_field_of_json_is_in_the_readme(command: str, kind: type[Any]) -> None:
    line = next(line for line in README.splitlines() if line.startswith(f"- `{command}`: "))
    described = line.partition("`; `")[0]
    names = [one.name for one in fields(kind)]
    assert [name for name in names if f'"{name}"' not in described] == []


def test_every_reason_of_an_error_stands_beside_its_code() -> None:
    lines = (ROOT / "protos" / "README.md").read_text(encoding="utf-8").splitlines()
    for error, code in STATUS.items():
        reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", error.__name__).upper()
        row = next(line for line in lines if line.startswith(f"| {code_pb2.Code.Name(code)} |"))
        assert f"`{reason}`" in row, reason


def metric_names() -> list[str]:
    names = {family.name for family in ServerMetrics().registry.collect()}
    names |= {family.name for family in CacheCounts(dict, SingleFlightCache(1)).collect()}
    names |= {family.name for family in WorkerMetrics().registry.collect()}
    assert len(names) > 10
    return sorted(names)


def test_every_metric_is_in_the_readme() -> None:
    assert [name for name in metric_names() if f"`{name}" not in README] == []


def test_generated_pages_are_current() -> None:
    generated: dict[Path, str] = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    stale = [path.name for path, text in generated.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run make docs"


def test_generated_pages_name_every_setting_metric_and_error() -> None:
    pages = {
        name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("settings", "metrics", "errors")
    }
    rows = re.findall(r"^\| `([a-z_.]+)` \| `KINODEX_", pages["settings"], re.MULTILINE)
    assert sorted(rows) == sorted(known_settings())
    assert [name for name in metric_names() if not re.search(rf"`{name}(_total)?[{{`]", pages["metrics"])] == []
    assert [error.__name__ for error in (*STATUS, *INTERNAL) if f"`{error.__name__}`" not in pages["errors"]] == []
