"""Runs the short form of `make chaos`: kills and restarts must neither lose nor double anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.broker import BrokerMissing, jars

CHAOS = Path(__file__).parent / "chaos.py"


@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_a_disturbed_run_ends_like_an_undisturbed_one(shared: Path, tmp_path: Path) -> None:
    try:
        jars()
    except BrokerMissing as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [sys.executable, str(CHAOS), "--short", "--keep", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    report = json.loads(done.stdout)
    assert (report["worker_kills"], report["broker_restarts"], report["server_kills"]) == (3, 1, 1)
    assert report["segments"] > 20
    assert report["events"] > 5
