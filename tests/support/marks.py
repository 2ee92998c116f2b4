"""Which of a test's cases `make test-quick` runs, and what a run may not skip."""

import os
from collections.abc import Iterable
from typing import Any

import pytest


def first_quick(cases: Iterable[Any], count: int = 1) -> list[Any]:
    """Give the cases to parametrize with, those after the first few marked as slow."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if at < count else [pytest.mark.slow])
        for at, case in enumerate(cases)
    ]


def required(what: str) -> bool:
    """Whether $KINODEX_REQUIRE (a comma list) says that `what` must be here, so that a skip is a failure."""
    return what in os.environ.get("KINODEX_REQUIRE", "").split(",")
