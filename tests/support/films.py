"""A small library of films in plain colours, with sentences in their sound."""

from pathlib import Path

import pytest

from serve.indexing.pipeline import index
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes


def write_films(folder: Path) -> None:
    """Write paris.mp4 (blue, red, blue) and london.mp4 (green)."""
    write_scenes(folder / "paris.mp4", [("blue", 10), ("red", 8), ("blue", 10)], tones=[(440, 3.0), (1320, 20.0)])
    write_scenes(folder / "london.mp4", [("green", 20)], tones=[(880, 12.0)])


def index_films(folder: Path, data: Path) -> Path:
    """Index all files of a folder with the exact encoders; return the data directory."""
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        list(index(sorted(map(str, folder.iterdir())), data, Settings(workers=2), progress=SilentProgress()))
    return data
