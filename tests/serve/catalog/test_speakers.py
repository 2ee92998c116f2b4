"""Speakers of a video: their list, their names, and what becomes of the names when the video is indexed again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve.catalog.catalog import Catalog
from serve.catalog.speech.speakers import has_speakers, read_speakers, said_by
from serve.catalog.swap import replace_videos
from serve.errors import SpeakerNotFound
from support.sample_catalog import MEDIA, SPACE, WIDTH, new_video, utterance

Said = tuple[str, float, int]  # text, start and speaker of an utterance of five seconds
DIALOGUE: Sequence[Said] = [("Who is there?", 0, 1), ("It is me.", 5, 2), ("Come in then.", 10, 1)]


def put_said(catalog: Catalog, said: Sequence[Said], sha256: str = "00" * 32, video_id: str = "v") -> int:
    row = catalog.begin(replace(new_video(video_id), content_sha256=sha256))
    spoken = [replace(utterance(text, start), speaker=speaker) for text, start, speaker in said]
    catalog.add_utterances(row, spoken, np.eye(len(said), WIDTH, dtype=np.float32))
    catalog.finish(row, media=MEDIA, duration_seconds=60.0, warnings=())
    return row


def names(catalog: Catalog) -> dict[int, str]:
    return {each.number: each.name for each in read_speakers(catalog, catalog.video("v").row)}


def test_lists_the_speakers_and_names_them(catalog: Catalog) -> None:
    row = put_said(catalog, [*DIALOGUE, ("(music)", 20, 0)])
    first, second = read_speakers(catalog, row)
    assert (first.number, first.name, first.utterance_count, first.speech_seconds) == (1, "", 2, 10.0)
    assert (second.start_seconds, second.label) == (5.0, "speaker 2")
    assert [each.speaker for each in catalog.utterances(row)] == [1, 2, 1, 0]
    before = catalog.generation()
    catalog.name_speaker(catalog.video("v"), 2, "Ana")
    assert catalog.generation() > before  # remembered answers are of the old names
    assert names(catalog) == {1: "", 2: "Ana"}
    catalog.name_speaker(catalog.video("v"), 2, "")
    assert names(catalog) == {1: "", 2: ""}


@pytest.mark.parametrize("number", [-1, 0, 3, 1 << 40])
def test_only_a_speaker_of_the_video_is_named(catalog: Catalog, number: int) -> None:
    put_said(catalog, [*DIALOGUE, ("(music)", 20, 0)])
    with pytest.raises(SpeakerNotFound, match=f"video v has no speaker {number}"):
        catalog.name_speaker(catalog.video("v"), number, "Ana")


def test_finds_what_a_speaker_says_by_number_and_by_name(catalog: Catalog) -> None:
    row, other = put_said(catalog, DIALOGUE), put_said(catalog, DIALOGUE, video_id="w")
    catalog.name_speaker(catalog.video("v"), 1, "Ana Ünal")
    places = [(each, position) for each in (row, other) for position in range(3)]
    assert said_by(catalog, "2", places) == {(row, 1), (other, 1)}
    assert said_by(catalog, " ana ünal", places) == {(row, 0), (row, 2)}
    for nobody in ("0", "9", "Bob", "' OR 1", "²"):
        assert said_by(catalog, nobody, places) == set()
    assert has_speakers(catalog)


def test_a_library_without_speakers_says_so(catalog: Catalog) -> None:
    row = put_said(catalog, [("Hello.", 0, 0)])
    assert not has_speakers(catalog)
    assert read_speakers(catalog, row) == []


@pytest.mark.parametrize(
    ("said", "sha256", "expected"),
    [
        (DIALOGUE, "00" * 32, {1: "Ana", 2: "Bob"}),
        # other numbers, and an utterance of Ana's goes to a third
        ([("Me.", 4.5, 1), ("Who?", 0, 2), ("Come.", 10, 3)], "00" * 32, {1: "Bob", 2: "Ana", 3: ""}),
        ([("All of it.", 0, 1), ("By one.", 5, 1), ("Voice.", 10, 1)], "00" * 32, {1: "Ana"}),
        ([("Now.", 30, 1), ("Elsewhere.", 40, 2)], "00" * 32, {1: "", 2: ""}),
        (DIALOGUE, "11" * 32, {1: "", 2: ""}),  # other bytes: times tell nothing
        ([("Hello.", 0, 0)], "00" * 32, {}),
    ],
)
def test_names_go_to_who_speaks_at_the_same_time(
    catalog: Catalog, said: Sequence[Said], sha256: str, expected: dict[int, str]
) -> None:
    put_said(catalog, DIALOGUE)
    catalog.name_speaker(catalog.video("v"), 1, "Ana")
    catalog.name_speaker(catalog.video("v"), 2, "Bob")
    put_said(catalog, said, sha256)
    assert names(catalog) == expected


def test_a_reindexing_keeps_the_names(catalog: Catalog, tmp_path: Path) -> None:
    put_said(catalog, DIALOGUE)
    catalog.name_speaker(catalog.video("v"), 2, "Bob")
    with Catalog.open_writer(tmp_path / "fresh") as fresh:
        fresh.set_space(SPACE)
        put_said(fresh, [("Who?", 0, 2), ("It is me.", 5, 1)])
    replace_videos(catalog, tmp_path / "fresh")
    assert names(catalog) == {1: "Bob", 2: ""}
