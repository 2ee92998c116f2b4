"""The documentation and the program agree: README.md, docs/, and the pages that `make docs` writes."""

import re
import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from google.rpc import code_pb2

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
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND_PAGE = (DOCS / "command.md").read_text(encoding="utf-8")
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if path.relative_to(ROOT).parts[0] in {"docs", "protos", "ingest", "encoders", "temporal", "serve"}
    or path.parent in (ROOT, ROOT / "benchmarks")
)
MOST_README_BYTES = 12_000  # a newcomer reads it in some minutes
MOST_PAGE_LINES = 300  # a page is about one task; generated pages are tables and may be longer


def linked_from(page: Path) -> set[str]:
    return set(re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")))


def headings_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def generated_pages() -> dict[Path, str]:
    pages: dict[Path, str] = runpy.run_path(str(DOCS / "generate.py"))["pages"]()
    return pages


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= MOST_README_BYTES


def test_pages_are_short() -> None:
    written = set(PAGES) - set(generated_pages()) - {ROOT / "CHANGELOG.md"}
    assert [page.name for page in written if len(page.read_text("utf-8").splitlines()) > MOST_PAGE_LINES] == []


def test_the_readme_leads_to_every_page() -> None:
    linked = linked_from(ROOT / "README.md")
    near = {f"docs/{name}" for page in DOCS.glob("*.md") for name in linked_from(page)} | linked
    assert [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in near] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} links to {path}"
        if anchor:
            assert anchor in headings_of(target), f"{page.name} links to {path}#{anchor}"


def test_the_threat_model_names_tests_that_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    folders, files = re.findall(r"`(tests/[\w/]+)`", text), re.findall(r"(test_\w+\.py)`", text)
    assert len(folders) + len(files) > 10
    assert [name for name in folders if not (ROOT / name).is_dir()] == []
    assert [name for name in files if not list((ROOT / "tests").rglob(name))] == []


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_is_documented_and_explains_itself(command: str) -> None:
    assert f"`{command}`" in COMMAND_PAGE
    assert (cli.commands[command].help or "").strip()
    assert isinstance(cli.commands[command], click.Command)


@pytest.mark.parametrize(
    ("command", "kind"), [("events", Event), ("events", MatchedWord), ("policies", Policy), ("policies", Policies)]
)
def test_every_field_of_json_is_documented(command: str, kind: type[Any]) -> None:
    line = next(line for line in COMMAND_PAGE.splitlines() if line.startswith(f"- `{command}`: "))
    described = line.partition("`; `")[0]
    names = [one.name for one in fields(kind)]
    assert [name for name in names if f'"{name}"' not in described] == []


def test_every_reason_of_an_error_stands_beside_its_code() -> None:
    lines = (DOCS / "errors.md").read_text(encoding="utf-8").splitlines()
    for error, code in STATUS.items():
        reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", error.__name__).upper()
        row = next(line for line in lines if f"`{error.__name__}`" in line)
        assert f"`{reason}`" in row, reason
        assert f"`{code_pb2.Code.Name(code)}`" in row, reason


def metric_names() -> list[str]:
    names = {family.name for family in ServerMetrics().registry.collect()}
    names |= {family.name for family in CacheCounts(dict, SingleFlightCache(1)).collect()}
    names |= {family.name for family in WorkerMetrics().registry.collect()}
    assert len(names) > 10
    return sorted(names)


def test_generated_pages_are_current() -> None:
    stale = [path.name for path, text in generated_pages().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run make docs"


def test_generated_pages_name_every_setting_metric_and_error() -> None:
    pages = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("settings", "metrics", "errors")}
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `(KINODEX_\w+)`", pages["settings"], re.MULTILINE))
    assert rows == {name: variable_name(name) for name in known_settings()}
    assert [name for name in metric_names() if not re.search(rf"`{name}(_total)?[{{`]", pages["metrics"])] == []
    assert [error.__name__ for error in (*STATUS, *INTERNAL) if f"`{error.__name__}`" not in pages["errors"]] == []
