"""Fixtures every test may use, and the guard that leaves no random state or environment behind."""

import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.marks import is_required
from support.real_time import leave_real_time

ROOT = Path(__file__).resolve().parents[1]
pytest_plugins = ["support.kafka_fixtures"]
SHARED = ROOT.parent / "shared"  # development videos; not part of the project


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development videos beside the checkout, or a skip that says so."""
    if not (SHARED / "videos" / "queries.json").exists():
        reason = "the development videos are not here (shared/videos beside the checkout)"
        if is_required("shared"):
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED


@pytest.fixture(autouse=True)
def restore_process_state() -> Iterator[None]:
    """Put the random generators and the environment back after each test."""
    environ, python_state, numpy_state = dict(os.environ), random.getstate(), np.random.get_state()
    yield
    os.environ.clear()
    os.environ.update(environ)
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    leave_real_time()


def pytest_collection_finish() -> None:
    """Leave what was imported out of the garbage collector's rounds: torch alone is a million objects."""
    leave_real_time()
    gc.collect()
    gc.freeze()
