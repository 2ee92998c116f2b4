"""Frequencies of words are counted once for all questions, and again when the catalog changes."""

from collections.abc import Sequence

import pytest

from serve.catalog.catalog import Catalog
from serve.search.speech import Frequencies
from support.sample_catalog import put


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The terms of each count."""
    asked: list[list[str]] = []
    real = Catalog.document_frequencies

    def count(self: Catalog, terms: Sequence[str], rows: Sequence[int] | None = None) -> tuple[dict[str, int], int]:
        asked.append(list(terms))
        return real(self, terms, rows)

    monkeypatch.setattr(Catalog, "document_frequencies", count)
    return asked


def test_a_word_is_counted_once_until_something_changes(
    catalog: Catalog, reader: Catalog, counted: list[list[str]]
) -> None:
    put(catalog, "a", "hello world", "hello again")
    frequencies = Frequencies(reader)
    assert frequencies.of(["hello", "world"], None) == ({"hello": 2, "world": 1}, 2)
    assert frequencies.of(["again", "hello"], None) == ({"again": 1, "hello": 2}, 2)
    assert list(frequencies.of(["again", "hello"], None)[0]) == ["again", "hello"]
    assert frequencies.of([], None) == ({}, 2)
    assert counted == [["hello", "world"], ["again"]]
    put(catalog, "b", "hello hello")
    assert frequencies.of(["hello"], None) == ({"hello": 3}, 3)
    catalog.delete("a")
    assert frequencies.of(["hello"], None) == ({"hello": 1}, 1)
    assert counted[2:] == [["hello"], ["hello"]]


def test_of_some_videos_it_is_counted_every_time(catalog: Catalog, reader: Catalog, counted: list[list[str]]) -> None:
    row = put(catalog, "a", "hello world")
    put(catalog, "b", "hello again")
    frequencies = Frequencies(reader)
    assert frequencies.of(["hello"], [row]) == frequencies.of(["hello"], [row]) == ({"hello": 1}, 1)
    assert frequencies.of(["hello"], None) == ({"hello": 2}, 2)
    assert len(counted) == 3


def test_questions_of_endless_new_words_do_not_fill_the_memory(
    catalog: Catalog, reader: Catalog, counted: list[list[str]]
) -> None:
    put(catalog, "a", "hello world")
    frequencies = Frequencies(reader, max_term_count=10)
    for n in range(30):
        assert frequencies.of([f"word{n}", "hello"], None) == ({f"word{n}": 0, "hello": 1}, 1)
    assert len(frequencies._counts) <= 12
