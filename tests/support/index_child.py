"""Index a folder with the tests' exact encoders: index_child.py FOLDER DATA. A process of its own, to be killed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ingest.config import DecodeConfig
from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes

if __name__ == "__main__":
    use_fakes(pytest.MonkeyPatch())
    list(
        index(
            [sys.argv[1]],
            Path(sys.argv[2]),
            Settings(workers=2, decode=DecodeConfig(sampling="exact")),
            progress=SilentProgress(),
        )
    )
