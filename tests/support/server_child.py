"""`kinodex serve` with the tests' exact encoders, a process of its own: server_child.py --data DIR --roots DIR."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ingest.config import SourceConfig
from serve.api.build import run_server
from serve.config import ServerConfig
from serve.settings import Settings
from support import fakes
from support.running import INGEST_CHILD

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--roots", required=True)
    given = parser.parse_args()
    fakes.use_fakes(pytest.MonkeyPatch())
    os.environ["KINODEX_SOURCE_FILE_ROOTS"] = given.roots
    os.environ["TEST_SLOW_SECONDS"] = "0.05"
    settings = Settings(
        workers=2, source=SourceConfig(file_roots=(given.roots,)), server=ServerConfig(listen="127.0.0.1:0")
    )

    def announce(address: str) -> None:
        print("listening on", address, flush=True)

    asyncio.run(run_server(given.data, settings, None, announce, ingest_command=INGEST_CHILD))
