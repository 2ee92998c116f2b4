"""Words of many languages: their endings, scripts without spaces, and finding them in the catalog."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import snowballstemmer
import stop_words as lists

from encoders.languages import CODES
from serve.catalog import schema
from serve.catalog.catalog import Catalog
from serve.catalog.speech.stemming import ALGORITHMS, drop_stop_words, stem, stemming_of, stop_words
from serve.catalog.spelling import PhraseFinder, content_terms, matches_term, search_words
from serve.catalog.sqlite import connect_writer
from serve.search.speech import match_words
from support.sample_catalog import MEDIA, WIDTH, new_video, turn_back, utterance

# A language, a text in it, a term that it holds in another form, and one that it does not hold.
EIGHT = [
    ("de", "Die Häuser am Fluss sind sehr alt.", "Haus", "Strasse"),
    ("es", "Compramos manzanas en los mercados.", "mercado", "pera"),
    ("fr", "Les journaux parlaient des élections.", "élection", "guerre"),
    ("ru", "Мы читали интересные книги.", "книга", "город"),
    ("ar", "قرأت المعلمون كتابا", "المعلمين", "سيارة"),
    ("tr", "Çocuklar bahçelerde oynuyor.", "çocuk", "araba"),
    ("ja", "昨日東京で会議がありました。", "東京", "京都"),
    ("zh", "我喜欢巴黎的春天", "巴黎", "黎巴"),
    ("th", "ฉันชอบกินข้าวผัด", "ข้าว", "ปลา"),
    ("he", "הספר על השולחן", "השולחן", "חלון"),
]


def put(catalog: Catalog, video_id: str, *said: tuple[str, str]) -> int:
    """Index a video in which texts in languages are said."""
    row = catalog.begin(new_video(video_id))
    spoken = [replace(utterance(text, 5.0 * n), language=language) for n, (language, text) in enumerate(said)]
    catalog.add_utterances(row, spoken, np.eye(len(said), WIDTH, dtype=np.float32))
    catalog.finish(row, media=MEDIA, duration_seconds=60.0, warnings=())
    return row


@pytest.mark.parametrize(("language", "text", "term", "other"), EIGHT, ids=[each[0] for each in EIGHT])
def test_a_text_of_any_language_holds_its_words_in_every_form(language: str, text: str, term: str, other: str) -> None:
    assert matches_term(text, term, language)
    assert not matches_term(text, other, language)


@pytest.mark.parametrize(("language", "text", "term", "other"), EIGHT, ids=[each[0] for each in EIGHT])
def test_a_question_finds_words_of_any_language(
    catalog: Catalog, language: str, text: str, term: str, other: str
) -> None:
    put(catalog, "v", ("en", "Houses on the river are old."), (language, text), ("en", "Nothing else."))
    [found] = catalog.match_words(content_terms(term), limit=9)
    assert found.position == 1
    assert catalog.match_words(content_terms(other), limit=9) == []
    counts, total = catalog.document_frequencies(content_terms(term))
    assert (set(counts.values()), total) == ({1}, 3)


def test_english_is_stemmed_by_the_search_table_alone(catalog: Catalog) -> None:
    row = put(catalog, "v", ("en", "She hikes in the mountains."))
    [(stored,)] = catalog.select("SELECT search_text FROM utterances WHERE video_row = ?", row)
    assert stored == search_words("She hikes in the mountains.") == "she hikes in the mountains"
    assert catalog.languages() == ["en"]
    assert len(catalog.match_words(["hiking"], limit=9)) == 1


def test_the_languages_of_a_library_are_found_without_a_look_at_every_row(catalog: Catalog) -> None:
    assert catalog.languages() == []
    put(catalog, "v", ("de", "Guten Tag."), ("en", "Hello."), ("de", "Auf Wiedersehen."), ("", "?"))
    assert catalog.languages() == ["", "de", "en"]
    plan = " ".join(str(row) for row in catalog.select("EXPLAIN QUERY PLAN SELECT min(language) FROM utterances"))
    assert "utterances_language" in plan


def test_words_are_marked_in_the_form_in_which_they_were_said() -> None:
    said = utterance("Wir sahen viele alte Häuser").words
    assert [word.text for word in match_words(said, ["haus"], "de")] == ["Häuser"]
    assert match_words(said, ["haus"], "en") == ()
    assert PhraseFinder(["altes haus"], "de").find(["zwei", "alte", "Häuser"])[0][:2] == (1, 3)


@pytest.mark.parametrize(
    ("terms", "languages", "rest"),
    [
        (["wann", "hat", "sie", "paris", "gesehen"], ["de", "en"], ["paris", "gesehen"]),
        (["die", "hard"], ["en"], ["die", "hard"]),  # nobody speaks German here
        (["quand", "parle", "elle", "du", "budget"], ["en", "fr"], ["parle", "budget"]),
        (["und"], ["de"], ["und"]),  # nothing would be left
        ([], ["de"], []),
        (["paris"], [], ["paris"]),
        (["paris"], ["xx", ""], ["paris"]),
    ],
)
def test_words_that_tell_no_subject_are_dropped_in_the_language_of_the_question(
    terms: Sequence[str], languages: Sequence[str], rest: Sequence[str]
) -> None:
    assert drop_stop_words(terms, languages) == rest


def test_every_language_of_the_table_is_known_to_its_libraries() -> None:
    assert set(ALGORITHMS) <= CODES
    assert set(ALGORITHMS.values()) <= set(snowballstemmer.algorithms())
    assert stemming_of("de") == "de"
    assert stemming_of("th") == stemming_of("") == "en"
    assert stem("running", "en") == "running"
    assert stop_words("en") == frozenset()
    assert stop_words("no") == frozenset(lists.get_stop_words("nb"))


def test_hostile_words_are_only_words() -> None:
    for word in ("", "\0", "'" * 9, "ß" * 10_000, "\ud800", "1e9", "e\u0301" * 50):
        for language in (*ALGORITHMS, "xx"):
            assert isinstance(stem(word, language), str)


def test_an_older_catalog_learns_the_endings_of_other_languages(catalog: Catalog, tmp_path: Path) -> None:
    row = put(catalog, "v", ("de", "Alte Häuser."), ("en", "Old houses."))
    directory = catalog.directory
    catalog.close()
    with closing(connect_writer(directory)) as connection:
        schema.add_functions(connection, directory)
        connection.execute("INSERT INTO utterance_search (utterance_search) VALUES ('delete-all')")
        connection.execute("UPDATE utterances SET search_text = normalise(text)")
        connection.execute("INSERT INTO utterance_search (rowid, search_text) SELECT id, search_text FROM utterances")
        turn_back(connection, schema.VERSION - 1)
        connection.commit()
    with Catalog.open_writer(directory) as migrated:
        assert [each.position for each in migrated.match_words(["haus"], limit=9)] == [0]
        assert [each.position for each in migrated.match_words(["house"], limit=9)] == [1]
        assert migrated.utterances(row)[0].text == "Alte Häuser."
