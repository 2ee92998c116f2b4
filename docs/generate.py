"""Writes the pages of docs/ that repeat the code: settings.md, metrics.md, errors.md, warnings.md.

Run by `make docs`. With --check it writes nothing and fails if a page is stale, as tests/test_docs.py does.
A setting's text is the comment above or beside its field; a metric's is its help text; an error's is the first line of
its docstring; a warning's are the fields of its kind.
"""

import ast
import dataclasses
import inspect
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import Any, get_type_hints

from google.rpc import code_pb2

import encoders.errors
import ingest.errors
import serve.errors
import temporal.errors
from serve.api.status import STATUS
from serve.errors import name_of
from serve.settings import Settings, known_settings, variable_name
from serve.video_warnings import KINDS

ROOT = Path(__file__).resolve().parents[1]
GENERATED = "<!-- Written by `make docs` from the code. Edit the code's comments instead. -->"
METRIC_TYPES = {"counter", "gauge", "histogram", "CounterMetricFamily", "GaugeMetricFamily"}
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def settings_page() -> str:
    """Return a table of all settings for each section."""
    lines = [
        "# Settings",
        GENERATED,
        "Settings come from one TOML file and from environment variables. A variable wins over the file. The file is"
        " the one that `--config` names, else `$KINODEX_CONFIG`, else `kinodex.toml` in the data directory. `DIR` below"
        " is the data directory. An unknown name is an error. In a variable, commas separate the items of a list.",
        '```toml\n# kinodex.toml; in the environment: KINODEX_VISUAL_MODEL=mini\n[visual]\nmodel = "mini"\n```',
    ]
    known, sections = known_settings(), get_type_hints(Settings)
    for section in ("", *sections):
        kind = sections.get(section, Settings)
        names = [name for name in known if name.rpartition(".")[0] == section]
        if not names:
            continue
        described = descriptions(kind)
        defaults = {field.name: default_text(field) for field in dataclasses.fields(kind)}
        title = f"`[{section}]`" if section else "Top level"
        lines += [f"## {title}", "" if not section else summary(kind)]
        rows = ["| setting | environment | default | what it is |", "| --- | --- | --- | --- |"]
        for name in names:
            key = name.rpartition(".")[2]
            rows.append(f"| `{name}` | `{variable_name(name)}` | {defaults[key]} | {sentence(described[key], name)} |")
        lines.append("\n".join(rows))
    return page(lines)


def descriptions(kind: type) -> dict[str, str]:
    """Return the comment above or beside each field of a dataclass; empty: there is none."""
    path = inspect.getsourcefile(kind)
    assert path is not None
    source = Path(path).read_text(encoding="utf-8")
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (body,) = (
        node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    described = {}
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        texts = [comments.get(node.end_lineno or node.lineno, "")]
        above = node.lineno - 1
        while above in comments and lines[above - 1].lstrip().startswith("#"):
            texts.insert(0, comments[above])
            above -= 1
        described[node.target.id] = " ".join(filter(None, texts))
    return described


def default_text(field: "dataclasses.Field[Any]") -> str:
    """Write a field's default for the table."""
    if field.default is dataclasses.MISSING:
        return "(depends)"
    value = field.default
    if value is None or value in ("", ()):
        return "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(f"{item:g}" if isinstance(item, float) else f"`{item}`" for item in value)
    for size, unit in UNITS:
        if field.name.endswith("_bytes") and value % size == 0:
            return f"{value} ({value // size} {unit})"
    return f"{value:g}" if isinstance(value, float) else f"`{value}`" if isinstance(value, str) else str(value)


def metrics_page() -> str:
    """Return a table of the metrics of each class that defines some."""
    lines = ["# Metrics", GENERATED, "Prometheus metrics. Labels have few values: never a video, a stream or a caller."]
    for path in sorted((ROOT / "serve").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            rows = (
                [row for call in ast.walk(node) if (row := metric_row(call))] if isinstance(node, ast.ClassDef) else []
            )
            if rows:
                title = (ast.get_docstring(node) or "").splitlines()[0]
                header = ["| metric | type | what it counts |", "| --- | --- | --- |"]
                lines += [f"## {title.partition('.')[0]}", "\n".join(header + sorted(rows))]
    return page(lines)


def metric_row(node: ast.AST) -> str:
    """Return the row of a call that makes a metric; empty: the node is none."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in METRIC_TYPES:
        return ""
    if len(node.args) < 2:  # collections.Counter
        return ""
    kind = node.func.id.removesuffix("MetricFamily").lower()
    labels = [each.value for each in node.keywords if each.arg in ("labels", "labelnames")] or node.args[2:]
    name, text = (ast.literal_eval(argument) for argument in node.args[:2])
    name += "_total" if kind == "counter" else ""
    name += f"{{{','.join(ast.literal_eval(labels[0]))}}}" if labels else ""
    return f"| `{name}` | {kind} | {sentence(text, name)} |"


def errors_page() -> str:
    """Return a table of the errors of each stage, in the order of their trees."""
    lines = [
        "# Errors",
        GENERATED,
        "A client of the server gets the gRPC code and the reason. An error without a code reaches clients as"
        " `INTERNAL`; the server's log has its text. A row that is set in is a kind of the error above it.",
    ]
    for module in (ingest.errors, encoders.errors, temporal.errors, serve.errors):
        kinds = [
            kind for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == module.__name__
        ]  # fmt: skip
        (root,) = (kind for kind in kinds if kind.__base__ not in kinds)
        rows = ["| error | gRPC code | reason | what it means |", "| --- | --- | --- | --- |"]
        rows += [error_row(kind, depth) for kind, depth in tree(root, kinds)]
        lines += [f"## {module.__name__.partition('.')[0]}", "\n".join(rows)]
    return page(lines)


def tree(kind: type, kinds: list[type], depth: int = 0) -> list[tuple[type, int]]:
    """Return a class and its subclasses, each with its depth."""
    below = [each for child in kinds if child.__base__ is kind for each in tree(child, kinds, depth + 1)]
    return [(kind, depth), *below]


def error_row(kind: type, depth: int) -> str:
    code = f"`{code_pb2.Code.Name(STATUS[kind])}`" if kind in STATUS else ""
    reason = f"`{name_of(kind.__new__(kind))}`" if kind in STATUS else ""
    return f"| {'&emsp;' * depth}`{kind.__name__}` | {code} | {reason} | {sentence(summary(kind), kind.__name__)} |"


def warnings_page() -> str:
    """Return a table of the kinds of warnings."""
    rows = ["| warning | what it means | what to do |", "| --- | --- | --- |"]
    for kind in KINDS:
        rows.append(f"| {kind.text.format(**kind.sample)} | {kind.meaning} | {kind.remedy} |")
    return page(
        [
            "# Warnings",
            GENERATED,
            "A video with a warning is indexed, and something of it is missing or was mended. `kinodex index` prints"
            " the warnings of each file and counts the files. `kinodex list` marks them, and `kinodex show ID` prints"
            " its warnings. Clients read `Video.warnings`. Logs of servers and workers have a line for each such file.",
            "\n".join(rows),
        ]
    )


def summary(kind: type) -> str:
    """Return the first paragraph of a class's docstring."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def sentence(text: str, name: str) -> str:
    """Write a comment as a sentence of a table: a capital first, no full stop last, nothing that Markdown reads.

    Raises:
        ValueError: If there is no text for what is named.
    """
    if not text:
        raise ValueError(f"{name} has no text")
    parts = re.split(r"(`[^`]*`)", text.rstrip("."))
    safe = "".join(part if part.startswith("`") else re.sub(r"([*_<|])", r"\\\1", part) for part in parts)
    return safe[0].upper() + safe[1:]


def page(paragraphs: list[str]) -> str:
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def pages() -> dict[Path, str]:
    """Return the text of every generated page."""
    return {
        ROOT / "docs" / "settings.md": settings_page(),
        ROOT / "docs" / "metrics.md": metrics_page(),
        ROOT / "docs" / "errors.md": errors_page(),
        ROOT / "docs" / "warnings.md": warnings_page(),
    }


def main() -> int:
    stale = {
        path: text for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        name = path.relative_to(ROOT)
        if "--check" in sys.argv[1:]:
            print(f"{name} is stale: run make docs", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return int(bool(stale) and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
