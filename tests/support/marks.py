"""Marks cases as slow, and reads which requirements a run must not skip."""

import os
from collections.abc import Iterable
from typing import Any

import pytest


def first_quick(cases: Iterable[Any], count: int = 1) -> list[Any]:
    """Return cases for parametrize; all after the first `count` are marked as slow."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if at < count else [pytest.mark.slow])
        for at, case in enumerate(cases)
    ]


def is_required(what: str) -> bool:
    """Return whether $KINODEX_REQUIRE, a list with commas, names `what`: then its absence is a failure, not a skip."""
    return what in os.environ.get("KINODEX_REQUIRE", "").split(",")
