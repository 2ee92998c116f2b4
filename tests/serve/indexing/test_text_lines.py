"""Text in pictures through the pipeline: lines in the catalog, and gone with their video."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from encoders.config import TextConfig
from encoders.values import Box, ReadLine
from encoders.writing.reader import load_reader
from ingest.config import DecodeConfig
from serve.catalog.catalog import Catalog
from serve.catalog.text_lines import lines_with, text_lines
from serve.indexing.pipeline import delete, index, reindex
from serve.settings import Settings
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.media import Track, times, write_media
from support.sample_catalog import TEXT_VERSION, turn_back

SETTINGS = Settings(workers=2, decode=DecodeConfig(sampling="exact"), text=TextConfig(model="auto"))
BOX = Box(left=0.1, top=0.2, right=0.5, bottom=0.3)


class SignReader:
    """Reads a sign in red pictures, and two lines in green ones."""

    def open_video(self) -> "SignReader":
        return self

    def read(self, pixels: NDArray[np.uint8]) -> Sequence[ReadLine]:
        colour = int(pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].argmax())
        lines = [["No entry"], ["Fresh fish", "every Tuesday"], []][colour]
        below = replace(BOX, top=0.6, bottom=0.7)
        return [ReadLine(text=text, box=box, confidence=0.9) for text, box in zip(lines, (BOX, below), strict=False)]


@pytest.fixture
def read_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr(
        "serve.indexing.run.load_reader", lambda config: SignReader() if config.model == "auto" else None
    )


def run(film: Path, data: Path, settings: Settings = SETTINGS) -> None:
    assert [each.status for each in index([str(film)], data, settings, progress=SilentProgress())] == ["indexed"]


def find_places(data: Path, term: str) -> list[tuple[int, int]]:
    with Catalog.open_reader(data) as catalog:
        return [(m.row, m.position) for m in catalog.match_words([term], limit=10, kind="text_lines")]


@pytest.mark.usefixtures("read_signs")
def test_lines_are_stored_with_times_and_are_found_by_their_words(tmp_path: Path) -> None:
    film = write_scenes(tmp_path / "a.mp4", [("red", 6), ("blue", 6), ("green", 4)])
    run(film, tmp_path / "data")
    with Catalog.open_reader(tmp_path / "data") as catalog:
        [video] = catalog.videos()
        lines = text_lines(catalog, video.row)
        assert [(each.text, each.start_seconds, each.end_seconds) for each in lines] == [
            ("No entry", 0.0, 6.0),
            ("Fresh fish", 12.0, 16.0),
            ("every Tuesday", 12.0, 16.0),
        ]
        assert video.text_line_count == 3
        [match] = catalog.match_words(["tuesdays"], limit=10, kind="text_lines")
        beside = lines_with(catalog, [(match.row, match.position)])
        assert [each.line.text for each in beside] == ["Fresh fish", "every Tuesday"]
        assert all(abs(float(np.linalg.norm(each.vector)) - 1) < 1e-5 for each in beside)
        assert catalog.match_words(["tuesdays"], limit=10) == []
        assert catalog.document_frequencies(["fish", "cat"], kind="text_lines") == ({"fish": 1, "cat": 0}, 3)


@pytest.mark.usefixtures("read_signs")
def test_none_reads_nothing(tmp_path: Path) -> None:
    film = write_scenes(tmp_path / "a.mp4", [("red", 6)])
    run(film, tmp_path / "data", replace(SETTINGS, text=TextConfig(model="none")))
    assert find_places(tmp_path / "data", "entry") == []


@pytest.mark.usefixtures("read_signs")
def test_lines_go_with_their_video_and_come_again_with_a_reindexing(tmp_path: Path) -> None:
    film, data = write_scenes(tmp_path / "a.mp4", [("red", 6)]), tmp_path / "data"
    run(film, data)
    before = find_places(data, "entry")
    assert [each.status for each in reindex(data, SETTINGS, progress=SilentProgress())] == ["indexed"]
    after = find_places(data, "entry")
    assert len(before) == len(after) == 1
    assert before != after
    with Catalog.open_reader(data) as catalog:
        [video] = catalog.videos()
    delete(data, [video.video_id])
    assert find_places(data, "entry") == []
    with sqlite3.connect(data / "catalog.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM text_lines").fetchone() == (0,)
        connection.execute("INSERT INTO text_line_search (text_line_search, rank) VALUES ('integrity-check', 1)")


@pytest.mark.usefixtures("read_signs")
def test_a_catalog_from_before_text_is_brought_forward(tmp_path: Path) -> None:
    film, data = write_scenes(tmp_path / "a.mp4", [("red", 6)]), tmp_path / "data"
    run(film, data)
    with sqlite3.connect(data / "catalog.sqlite") as connection:
        turn_back(connection, TEXT_VERSION - 1)
    with Catalog.open_reader(data) as catalog:
        [video] = catalog.videos()
        assert (video.text_line_count, text_lines(catalog, video.row)) == (0, [])
    list(reindex(data, SETTINGS, progress=SilentProgress()))
    assert len(find_places(data, "entry")) == 1


@pytest.mark.slow
def test_a_drawn_slide_is_read_to_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    monkeypatch.setattr("serve.indexing.run.load_reader", load_reader)

    def slide(number: int) -> NDArray[np.uint8]:
        picture = Image.new("RGB", (640, 360), "white" if number < 120 else "navy")
        text = "Opening hours" if number < 120 else "Closed on Mondays"
        colour = "black" if number < 120 else "white"
        ImageDraw.Draw(picture).text((60, 140), text, colour, ImageFont.load_default(40))
        return np.asarray(picture)

    film = tmp_path / "slides.mp4"
    write_media(film, format="mp4", video=Track(times=times(240), width=640, height=360, picture=slide))
    run(film, tmp_path / "data")
    with Catalog.open_reader(tmp_path / "data") as catalog:
        [video] = catalog.videos()
        lines = text_lines(catalog, video.row)
    assert [(each.text, each.start_seconds, each.end_seconds) for each in lines] == [
        ("Opening hours", 0.0, 5.0),
        ("Closed on Mondays", 5.0, 10.0),
    ]
