"""Questions to a small library with exact encoders: red finds red, a tone is a sentence."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import SilentProgress, use_fakes, write_scenes

from encoders.errors import NoVisualEncoder
from ingest.errors import DecodeError
from serve.errors import DataDirectoryMissing
from serve.library import Library
from serve.pipeline import delete, index
from serve.settings import Settings
from serve.values import Query, Verdict

SETTINGS = Settings(workers=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    films = folder / "films"
    films.mkdir()
    write_scenes(films / "paris.mp4", [("blue", 10), ("red", 8), ("blue", 10)], tones=[(440, 3.0), (1320, 20.0)])
    write_scenes(films / "london.mp4", [("green", 20)], tones=[(880, 12.0)])
    write_scenes(films / "silent.mp4", [("yellow", 10), ("green", 4)])
    with pytest.MonkeyPatch.context() as patch:
        use_fakes(patch)
        list(index([str(films)], folder / "data", SETTINGS, progress=SilentProgress()))
        list(
            index(
                [str(write_scenes(folder / "other.mp4", [("red", 12)], tones=[(440, 5.0)]))],
                folder / "data",
                SETTINGS,
                collection="other",
                progress=SilentProgress(),
            )
        )
    return folder / "data"


@pytest.fixture
def library(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    use_fakes(monkeypatch)
    with Library.open(data, SETTINGS) as opened:
        yield opened


def name(uri: str) -> str:
    return Path(uri).name


def test_finds_the_second_at_which_something_is_said(library: Library) -> None:
    best = library.moments(Query(text="when does the speaker mention London?")).moments[0]
    assert name(best.uri) == "london.mp4"
    assert (best.start_seconds, best.end_seconds) == pytest.approx((12, 13), abs=0.1)
    assert best.verdict is Verdict.MATCH
    assert best.transcript == "London is foggy."
    assert best.matched_words == ("London",)
    assert best.best_frame_seconds == pytest.approx(12.5, abs=1)


def test_finds_the_seconds_at_which_something_is_seen(library: Library) -> None:
    best = library.moments(Query(text="red", channel="visual", collection="default")).moments[0]
    assert name(best.uri) == "paris.mp4"
    assert (best.start_seconds, best.end_seconds) == pytest.approx((10, 18), abs=1)
    assert best.speech_score is None
    assert best.best_frame_seconds is not None
    assert 10 <= best.best_frame_seconds < 18


def test_search_ranks_videos_and_lists_their_moments(library: Library) -> None:
    answer = library.search(Query(text="green", channel="visual"))
    assert [name(video.uri) for video in answer.videos[:2]] == ["london.mp4", "silent.mp4"]
    assert answer.videos[1].moments[0].start_seconds == pytest.approx(10, abs=1)


def test_calls_what_is_not_there_no_match(library: Library) -> None:
    answer = library.moments(Query(text="who talks about mortgage rates?", limit=3))
    assert all(moment.verdict is Verdict.NO_MATCH for moment in answer.moments)
    assert all(moment.confidence < 0.3 for moment in answer.moments)


def test_looks_only_where_it_is_told(library: Library) -> None:
    paris = next(video for video in library.videos() if name(video.uri) == "paris.mp4")
    within = library.moments(Query(text="London", video_ids=(paris.video_id,))).moments
    assert {moment.video_id for moment in within} <= {paris.video_id}
    other = library.moments(Query(text="Paris is lovely", collection="other")).moments
    assert {name(moment.uri) for moment in other} == {"other.mp4"}
    assert not library.moments(Query(text="Paris", collection="nowhere")).moments


def test_an_image_finds_its_like(library: Library, tmp_path: Path) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 0] = 255
    best = library.moments(Query(image=picture, collection="default")).moments[0]
    assert name(best.uri) == "paris.mp4"
    assert 9 <= best.start_seconds <= 11


def test_an_image_file_is_decoded_to_the_encoders_size(library: Library, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "red.png"
    Image.new("RGB", (300, 200), (255, 0, 0)).save(path)
    pixels = library.load_image(path)
    assert pixels.shape == (32, 32, 3)
    assert pixels.reshape(-1, 3).mean(axis=0) == pytest.approx((255, 0, 0), abs=6)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DecodeError):
        library.load_image(tmp_path / "text.png")


def test_words_propose_utterances_everywhere_and_within_bounds(library: Library) -> None:
    speech = library.engine.speech
    london = next(video for video in library.videos() if name(video.uri) == "london.mp4")
    assert {row for row, _ in speech.worded(["foggy"], None)} == {london.row}
    assert {row for row, _ in speech.worded(["foggy"], [london.row])} == {london.row}
    assert speech.worded(["foggy"], []) == set()


def test_limit_and_order(library: Library) -> None:
    answer = library.moments(Query(text="blue red", limit=2))
    assert len(answer.moments) == 2
    assert answer.moments[0].score >= answer.moments[1].score


def test_hostile_text_is_only_text(library: Library) -> None:
    for text in ('"; DROP TABLE videos; --', "NEAR(", "*", '"unbalanced', "a" * 5000, "\x00", "日本語", "🙂"):
        library.moments(Query(text=text, limit=1))


def test_without_sight_the_answer_says_so(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch, visual=False)
    film = write_scenes(tmp_path / "film.mp4", [("red", 6)], tones=[(440, 2.0)])
    list(index([str(film)], tmp_path / "blind", SETTINGS, progress=SilentProgress()))
    with Library.open(tmp_path / "blind", SETTINGS) as blind:
        answer = blind.moments(Query(text="Paris"))
        assert answer.degraded_channels == ("visual",)
        assert answer.moments[0].transcript == "Paris is lovely."
        with pytest.raises(NoVisualEncoder):
            blind.load_image(film)


def test_delete_is_seen_by_the_next_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    film = write_scenes(tmp_path / "film.mp4", [("red", 6)], tones=[(440, 2.0)])
    [outcome] = index([str(film)], tmp_path / "data", SETTINGS, progress=SilentProgress())
    assert outcome.video_id is not None
    with Library.open(tmp_path / "data", SETTINGS) as library:
        assert library.moments(Query(text="Paris")).moments
        delete(tmp_path / "data", [outcome.video_id])
        assert not library.moments(Query(text="Paris")).moments


def test_an_empty_directory_is_no_library(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryMissing):
        Library.open(tmp_path, SETTINGS)
