"""Questions to a small library with exact encoders: red finds red, a tone is a sentence."""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from encoders.errors import NoVisualEncoder
from ingest.errors import DecodeError
from serve.catalog.catalog import Catalog
from serve.errors import CallAbandoned, CollectionNotFound, DataDirectoryMissing, VideoNotFound
from serve.indexing.pipeline import delete, index
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Filter, MomentReference, Query, Verdict
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.heif import encode_grid
from support.photos import draw_quarters, encode_picture
from temporal.values import TimeSpan

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


@pytest.mark.slow
def test_finds_the_second_at_which_something_is_said(library: Library) -> None:
    best = library.moments(Query(text="when does the speaker mention London?")).moments[0]
    assert name(best.uri) == "london.mp4"
    assert (best.start_seconds, best.end_seconds) == pytest.approx((12, 13), abs=0.1)
    assert best.verdict is Verdict.MATCH
    assert best.transcript == "London is foggy."
    assert [word.text for word in best.matched_words] == ["London"]
    assert best.matched_words[0].start_seconds == pytest.approx(best.start_seconds, abs=0.1)
    assert best.best_frame_seconds == pytest.approx(12.5, abs=1)


def test_a_question_for_sight_and_speech_finds_what_is_said_there(library: Library) -> None:
    best = library.moments(Query(text="something red, and somebody says London")).moments[0]
    assert name(best.uri) == "london.mp4"
    assert (best.start_seconds, best.end_seconds) == pytest.approx((12, 13), abs=0.1)
    assert [word.text for word in best.matched_words] == ["London"]


def test_finds_the_seconds_at_which_something_is_seen(library: Library) -> None:
    best = library.moments(Query(text="red", channel="visual", filter=Filter(collections=("default",)))).moments[0]
    assert name(best.uri) == "paris.mp4"
    assert (best.start_seconds, best.end_seconds) == pytest.approx((10, 18), abs=1)
    assert best.speech_score is None
    assert best.best_frame_seconds is not None
    assert 10 <= best.best_frame_seconds < 18


def test_moments_of_one_video_have_verdicts_of_their_own(library: Library) -> None:
    within = library.moments(Query(text="red", channel="visual", filter=Filter(collections=("default",)))).moments
    paris = [moment for moment in within if name(moment.uri) == "paris.mp4"]
    verdicts = {moment.start_seconds < 18 and moment.end_seconds > 10: moment.verdict for moment in paris}
    assert verdicts == {True: Verdict.MATCH} | ({False: Verdict.NO_MATCH} if len(paris) > 1 else {})
    assert all(moment.verdict is Verdict.NO_MATCH for moment in within if name(moment.uri) == "london.mp4")


def test_search_ranks_videos_and_lists_their_moments(library: Library) -> None:
    answer = library.search(Query(text="green", channel="visual"))
    assert [name(video.uri) for video in answer.videos[:2]] == ["london.mp4", "silent.mp4"]
    assert answer.videos[1].moments[0].start_seconds == pytest.approx(10, abs=1)


def test_the_verdict_on_a_subject_that_is_not_there_is_no_match(library: Library) -> None:
    answer = library.moments(Query(text="who talks about mortgage rates?", limit=3))
    assert all(moment.verdict is Verdict.NO_MATCH for moment in answer.moments)
    assert all(moment.confidence < 0.3 for moment in answer.moments)


@pytest.mark.parametrize("text", ["the", "it", "and", "of", "?"])
def test_nothing_matches_a_stop_word(library: Library, text: str) -> None:
    for verdict in (
        *(moment.verdict for moment in library.moments(Query(text=text)).moments),
        *(video.verdict for video in library.search(Query(text=text)).videos),
    ):
        assert verdict is Verdict.NO_MATCH


def test_searches_only_the_videos_of_the_filter(library: Library) -> None:
    paris = next(video for video in library.videos() if name(video.uri) == "paris.mp4")
    within = library.moments(Query(text="London", filter=Filter(video_ids=(paris.video_id,)))).moments
    assert {moment.video_id for moment in within} <= {paris.video_id}
    other = library.moments(Query(text="Paris is lovely", filter=Filter(collections=("other",)))).moments
    assert {name(moment.uri) for moment in other} == {"other.mp4"}
    with pytest.raises(CollectionNotFound):
        library.moments(Query(text="Paris", filter=Filter(collections=("nowhere",))))


def picture(path: Path, colour: tuple[int, int, int]) -> bytes:
    Image.new("RGB", (300, 200), colour).save(path)
    return path.read_bytes()


def test_an_image_finds_similar_frames(library: Library, tmp_path: Path) -> None:
    red = picture(tmp_path / "red.png", (255, 0, 0))
    best = library.moments(Query(image=red, filter=Filter(collections=("default",)))).moments[0]
    assert name(best.uri) == "paris.mp4"
    assert 9 <= best.start_seconds <= 11


def test_a_photo_in_tiles_asks_what_the_same_photo_in_one_piece_asks(library: Library) -> None:
    photo = draw_quarters(192, 192)
    png, grid = (library.pixels(Query(image=each)) for each in (encode_picture(photo, "PNG"), encode_grid(photo)))
    assert png is not None
    assert grid is not None
    assert float(np.abs(png.astype(int) - grid).mean()) < 3


def test_the_pictures_of_questions_share_a_child_process(library: Library) -> None:
    photo, children = encode_picture(draw_quarters(64, 64), "PNG"), []
    for _ in range(2):
        library.pixels(Query(image=photo))
        children.append({child._process.pid for child in library._decode_pool._children})
    assert children[0] == children[1]


def test_an_image_is_decoded_to_the_encoders_size(library: Library, tmp_path: Path) -> None:
    pixels = library.pixels(Query(image=picture(tmp_path / "red.png", (255, 0, 0))))
    assert pixels is not None
    assert pixels.shape == (32, 32, 3)
    assert pixels.reshape(-1, 3).mean(axis=0) == pytest.approx((255, 0, 0), abs=6)
    with pytest.raises(DecodeError, match=r"holiday\.png"):
        library.moments(Query(image=b"no picture", image_name="holiday.png"))


def test_text_and_image_are_mixed_by_weight(library: Library, tmp_path: Path) -> None:
    red = picture(tmp_path / "red.png", (255, 0, 0))

    def first(weight: float) -> str:
        return name(library.search(Query(text="green", image=red, image_weight=weight, channel="visual")).videos[0].uri)

    assert first(0.0) in ("london.mp4", "silent.mp4")
    assert first(1.0) == "other.mp4"


def test_an_example_finds_moments_that_look_or_sound_alike(library: Library) -> None:
    paris = next(video for video in library.videos() if name(video.uri) == "paris.mp4")
    red = MomentReference(video_id=paris.video_id, span=TimeSpan(start_seconds=10.0, end_seconds=18.0))
    assert {name(video.uri) for video in library.search(Query(like=red, channel="visual")).videos[:2]} == {
        "other.mp4",
        "paris.mp4",
    }
    seen = library.moments(Query(like=red, channel="visual")).moments
    assert "other.mp4" in {name(moment.uri) for moment in seen}
    assert not [
        one for one in seen if one.video_id == paris.video_id and one.start_seconds < 18 and one.end_seconds > 10
    ]
    lovely = MomentReference(video_id=paris.video_id, span=TimeSpan(start_seconds=3.0, end_seconds=4.0))
    heard = library.moments(Query(like=lovely, channel="speech")).moments[0]
    assert (name(heard.uri), heard.transcript) == ("other.mp4", "Paris is lovely.")
    assert heard.verdict is Verdict.MATCH


def test_the_video_of_an_example_must_exist(library: Library) -> None:
    paris = next(video for video in library.videos() if name(video.uri) == "paris.mp4")
    span = TimeSpan(start_seconds=10.0, end_seconds=18.0)
    for like in (
        MomentReference(video_id="nothing", span=span),
        MomentReference(video_id=paris.video_id, span=span, collection="other"),
    ):
        with pytest.raises(VideoNotFound):
            library.moments(Query(like=like))


def test_excluded_text_is_neither_shown_nor_said_in_answers(library: Library) -> None:
    def uris(**query: Any) -> set[str]:
        return {name(video.uri) for video in library.search(Query(**query)).videos}

    assert "other.mp4" in uris(text="red", channel="visual")
    assert not {"other.mp4"} & uris(text="blue", exclude_text="red", channel="visual")
    found = library.moments(Query(text="blue", exclude_text="red", channel="visual")).moments
    assert [one for one in found if name(one.uri) == "paris.mp4"]
    assert not [one for one in found if name(one.uri) == "paris.mp4" and 11 < (one.best_frame_seconds or 0) < 17]
    said = {moment.transcript for moment in library.moments(Query(text="London", channel="speech")).moments}
    assert "Paris is lovely." in said
    said = {
        moment.transcript
        for moment in library.moments(Query(text="London", exclude_text="Paris", channel="speech")).moments
    }
    assert "London is foggy." in said
    assert not [text for text in said if "Paris" in text]


def test_answers_below_a_confidence_are_left_out(library: Library) -> None:
    found = library.moments(Query(text="when does the speaker mention London?", min_confidence=0.7)).moments
    assert found
    assert all(moment.confidence >= 0.7 for moment in found)
    assert not library.search(Query(text="mortgage rates", min_confidence=0.7)).videos


def test_one_video_cannot_fill_the_answer(library: Library) -> None:
    def counts(limit: int | None) -> Counter[str]:
        found = library.moments(Query(text="blue and red", limit=100, max_moments_per_video=limit)).moments
        return Counter(moment.video_id for moment in found)

    assert max(counts(None).values()) > 1
    assert set(counts(1).values()) == {1}
    assert counts(1).keys() == counts(None).keys()
    assert all(len(v.moments) <= 1 for v in library.search(Query(text="blue", max_moments_per_video=1)).videos)


def test_filters_by_length(library: Library) -> None:
    def uris(**conditions: float) -> set[str]:
        return {name(v.uri) for v in library.search(Query(text="green", filter=Filter(**conditions))).videos}

    assert uris(min_duration_seconds=19.0) == {"london.mp4", "paris.mp4"}
    assert uris(max_duration_seconds=13.0) == {"other.mp4"}
    assert not uris(min_duration_seconds=50.0)


@pytest.mark.slow
def test_pages_of_a_ranking_do_not_repeat_or_skip_while_videos_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    films = [
        str(write_scenes(tmp_path / f"{n}.mp4", [("red", 6 + n), ("blue", 5)], tones=[(440, 2.0)])) for n in range(4)
    ]
    ids = [outcome.video_id for outcome in index(films, tmp_path / "data", SETTINGS, progress=SilentProgress())]
    with Library.open(tmp_path / "data", SETTINGS) as library:
        engine = library.engine
        ranking = engine.rank_videos(Query(text="red"))
        whole, end = engine.page_of_videos(ranking, 0, 10)
        assert end == 4
        assert len(whole) == 4
        gone = whole[2].video_id
        assert gone in ids
        delete(tmp_path / "data", [gone])
        left = [one.video_id for one in whole if one.video_id != gone]
        first, at = engine.page_of_videos(ranking, 0, 2)
        second, end = engine.page_of_videos(ranking, at, 2)
        assert [one.video_id for one in (*first, *second)] == left
        assert (at, end) == (2, 4)
        moments, _ = engine.page_of_moments(engine.rank_moments(Query(text="red")), 0, 100)
        assert gone not in {moment.video_id for moment in moments}


def test_a_check_that_raises_cancels_the_question(library: Library) -> None:
    def check() -> None:
        raise CallAbandoned("gone")

    for rank in (library.engine.rank_moments, library.engine.rank_videos):
        with pytest.raises(CallAbandoned):
            rank(Query(text="red"), None, check)
    assert library.moments(Query(text="red")).moments  # the next question is answered


@pytest.mark.slow
def test_many_threads_get_the_answers_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    steady = [
        str(write_scenes(tmp_path / f"{n}.mp4", [("red", 4 + n), ("blue", 5)], tones=[(440, 2.0)])) for n in range(3)
    ]
    temporary = [str(write_scenes(tmp_path / f"x{n}.mp4", [("green", 4)], salt=n)) for n in range(6)]
    data = tmp_path / "data"
    list(index(steady, data, SETTINGS, progress=SilentProgress()))
    asked = [
        Query(text=text, limit=100, filter=Filter(max_duration_seconds=100.0))
        for text in ("red", "blue", "Paris is lovely")
    ]
    steady_uris = set(steady)
    with Library.open(data, SETTINGS) as library:

        def answers(query: Query) -> list[tuple[str, float]]:
            found = library.moments(query).moments
            return [(moment.uri, moment.start_seconds) for moment in found if moment.uri in steady_uris]

        expected = [sorted(answers(query)) for query in asked]
        stop = threading.Event()

        def ask(n: int) -> int:
            count = 0
            while not stop.is_set():
                assert sorted(answers(asked[n % 3])) == expected[n % 3]
                count += 1
            return count

        with ThreadPoolExecutor(6) as pool:
            asking = [pool.submit(ask, n) for n in range(6)]
            try:
                for film in temporary:
                    [outcome] = index([film], data, SETTINGS, progress=SilentProgress())
                    assert outcome.video_id
                    delete(data, [outcome.video_id])
            finally:
                stop.set()
            assert all(asker.result() for asker in asking)


def test_a_failure_to_encode_texts_is_raised_and_the_next_question_answered(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(texts: Sequence[str]) -> NDArray[np.float32]:
        raise MemoryError(texts[0])

    with monkeypatch.context() as patched:
        patched.setattr(library.engine.sentences, "_encode", fail)
        with pytest.raises(MemoryError, match="London"):
            library.moments(Query(text="when does the speaker mention London?"))
    assert library.moments(Query(text="when does the speaker mention London?")).moments


def test_words_are_found_in_all_or_in_some_videos(library: Library) -> None:
    speech = library.engine.speech
    london = next(video for video in library.videos() if name(video.uri) == "london.mp4")
    assert {row for row, _ in speech.find_words(["foggy"], None).places} == {london.row}
    assert {row for row, _ in speech.find_words(["foggy"], [london.row]).places} == {london.row}
    assert speech.find_words(["foggy"], []).places == set()


def test_limit_and_order(library: Library) -> None:
    answer = library.moments(Query(text="blue red", limit=2))
    assert len(answer.moments) == 2
    assert answer.moments[0].score >= answer.moments[1].score


def test_hostile_text_is_only_text(library: Library) -> None:
    videos, answer = library.videos(), library.moments(Query(text="when does the speaker mention London?"))
    assert len(videos) == 4
    assert answer.moments[0].transcript == "London is foggy."
    for text in ('"; DROP TABLE videos; --', "NEAR(", "*", '"unbalanced', "a" * 5000, "\x00", "日本語", "🙂"):
        library.moments(Query(text=text, limit=1))
        library.moments(Query(text="red", exclude_text=text, limit=1))
    assert library.videos() == videos
    assert library.moments(Query(text="when does the speaker mention London?")) == answer


@pytest.mark.slow
def test_without_a_visual_encoder_the_answer_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch, visual=False)
    film = write_scenes(tmp_path / "film.mp4", [("red", 6)], tones=[(440, 2.0)])
    list(index([str(film)], tmp_path / "blind", SETTINGS, progress=SilentProgress()))
    with Library.open(tmp_path / "blind", SETTINGS) as blind:
        answer = blind.moments(Query(text="Paris"))
        assert answer.degraded_channels == ("visual",)
        assert answer.moments[0].transcript == "Paris is lovely."
        with pytest.raises(NoVisualEncoder):
            blind.moments(Query(image=b"any"))


def test_a_deleted_video_leaves_the_next_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.slow
def test_speech_in_other_collections_changes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    data, asked = tmp_path / "data", Query(text="Paris London", filter=Filter(collections=("alpha",)))
    mine = write_scenes(tmp_path / "mine.mp4", [("red", 6)], tones=[(440, 2.0)])
    theirs = write_scenes(tmp_path / "theirs.mp4", [("blue", 40)], tones=[(880, 2.0 * n) for n in range(1, 19)])
    list(index([str(mine)], data, SETTINGS, collection="alpha", progress=SilentProgress()))

    def scores() -> list[tuple[float, float]]:
        with Library.open(data, SETTINGS) as library:
            return [(one.score, one.confidence) for one in library.moments(asked).moments]

    before = scores()
    assert before
    list(index([str(theirs)], data, SETTINGS, collection="beta", progress=SilentProgress()))
    assert scores() == before


@pytest.mark.parametrize(
    ("text", "speaker", "found"),
    [
        ("London", "", ["london.mp4"]),
        ("London", "1", ["london.mp4"]),
        ("London", "2", []),
        ("what does the second speaker say about London?", "", []),
        ("what does the first speaker say about London?", "", ["london.mp4"]),
        ("London", "Ana", ["london.mp4"]),
        ("London", "Bob", []),
    ],
)
def test_a_question_for_one_speaker_finds_only_what_they_say(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, speaker: str, found: list[str]
) -> None:
    use_fakes(monkeypatch)
    shutil.copytree(data, tmp_path / "data")
    with Catalog.open_writer(tmp_path / "data") as catalog:
        with catalog.writing() as write:
            write.execute("UPDATE utterances SET speaker = 1 + position")
            catalog.advance_generation(write)
        london = next(video for video in catalog.videos() if name(video.uri) == "london.mp4")
        catalog.name_speaker(london, 1, "Ana")
    with Library.open(tmp_path / "data", SETTINGS) as library:
        moments = library.moments(Query(text=text, speaker=speaker)).moments
    assert [name(each.uri) for each in moments if each.verdict is not Verdict.NO_MATCH] == found
    if speaker == "Bob":
        assert moments == ()
    if speaker or "speaker" in text:
        assert all(each.visual_score is None for each in moments)
