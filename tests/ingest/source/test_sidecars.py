"""Subtitle files beside a video: which names belong to it, and what the URI policy says."""

import os
from pathlib import Path

import pytest

from ingest.config import SourceConfig
from ingest.errors import SourceError
from ingest.source.sidecars import digest_of, find_sidecars, open_sidecar

LANGUAGES = {"en": "en", "eng": "en", "english": "en", "en-us": "en", "pt-br": "pt", "de": "de", "hi": "hi"}
CONFIG = SourceConfig()


def code(name: str | None) -> str | None:
    return LANGUAGES.get(name or "")


def make(folder: Path, *names: str) -> str:
    for name in (*names, "film.mp4"):
        (folder / name).write_bytes(b"1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    return str(folder / "film.mp4")


@pytest.mark.parametrize(
    ("name", "language", "kind", "is_default"),
    [
        ("film.srt", None, "full", False),
        ("film.en.srt", "en", "full", False),
        ("film.ENG.VTT", "en", "full", False),
        ("film.English.ass", "en", "full", False),
        ("film.en-US.ssa", "en", "full", False),
        ("film.pt-BR.srt", "pt", "full", False),
        ("film.eng.forced.srt", "en", "forced", False),
        ("film.forced.en.srt", "en", "forced", False),
        ("film.en.sdh.srt", "en", "impaired", False),
        ("film.en.hi.srt", "en", "impaired", False),
        ("film.hi.srt", "hi", "full", False),
        ("film.en.commentary.srt", "en", "commentary", False),
        ("film.en.default.srt", "en", "full", True),
        ("film.mp4.en.srt", "en", "full", False),
        ("film.lrc", None, "full", False),
    ],
)
def test_names_say_language_and_kind(
    tmp_path: Path, name: str, language: str | None, kind: str, is_default: bool
) -> None:
    (found,) = find_sidecars(make(tmp_path, name), code)
    assert (found.name, found.language, found.kind, found.is_default) == (name, language, kind, is_default)
    assert found.suffix == name.rpartition(".")[2].lower()


@pytest.mark.parametrize(
    "name", ["film.part2.srt", "film2.srt", "film", "film.txt", "other.srt", "film.en.xx.srt", "filmsrt", "film-en.srt"]
)
def test_other_names_are_of_others(tmp_path: Path, name: str) -> None:
    assert find_sidecars(make(tmp_path, name), code) == []


def test_urls_have_none(tmp_path: Path) -> None:
    make(tmp_path, "film.srt")
    assert find_sidecars("https://example.org/film.mp4", code) == []
    assert find_sidecars(str(tmp_path / "missing" / "film.mp4"), code) == []


def test_a_uri_of_a_file_has_those_that_the_policy_allows(tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir()
    (tmp_path / "secret.srt").write_text("secret")
    make(tmp_path / "roots", "film.srt")
    (tmp_path / "roots" / "film.en.srt").symlink_to(tmp_path / "secret.srt")
    config = SourceConfig(file_roots=(str(tmp_path / "roots"),))
    outside, inside = find_sidecars((tmp_path / "roots" / "film.mp4").as_uri(), code)
    with open_sidecar(inside, config) as file:
        assert b"Hello" in file.read()
    with pytest.raises(SourceError), open_sidecar(outside, config):
        pass


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    uri = make(tmp_path)
    os.mkfifo(tmp_path / "film.srt")
    (found,) = find_sidecars(uri, code)
    with pytest.raises(SourceError), open_sidecar(found, CONFIG):
        pass
    assert digest_of([found], CONFIG)


def test_the_digest_changes_with_content_and_names(tmp_path: Path) -> None:
    uri, digests = make(tmp_path), set()
    assert digest_of(find_sidecars(uri, code), CONFIG) == ""
    for name, text in [("film.srt", "a"), ("film.srt", "b"), ("film.en.srt", "b")]:
        (tmp_path / name).write_text(text)
        os.utime(tmp_path, ns=(len(digests), len(digests)))  # a folder's time may be too coarse
        digests.add(digest_of(find_sidecars(uri, code), CONFIG))
    assert len(digests) == 3
