"""Uses of kafka-python's private attributes stand in ingest/kafka/repairs.py only."""

import ast
from pathlib import Path

import pytest

import ingest.kafka

FILES = sorted(set(Path(ingest.kafka.__file__).parent.glob("*.py")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_repairs_uses_private_attributes_of_others(path: Path) -> None:
    private = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]
    assert bool(private) == (path.name == "repairs.py"), private
