"""The command kinodex transcript: what it says about words, and the import of corrected ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from encoders.values import WordSource
from serve.catalog.catalog import Catalog
from serve.catalog.speech.subtitles import UsedSubtitles, set_subtitles
from serve.cli.main import cli
from support.sample_catalog import MEDIA, WIDTH, new_video, unit, utterance


def kinodex(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.fixture
def data(catalog: Catalog) -> Path:
    row = catalog.begin(new_video("3fa9c0ffee"))
    sources = (WordSource.SIDECAR, WordSource.SPEECH, WordSource.SIDECAR)
    said = [replace(utterance(f"Line {n}.", 5.0 * n), source=source) for n, source in enumerate(sources)]
    catalog.add_utterances(row, said, unit(np.ones((3, WIDTH), np.float32)))
    set_subtitles(catalog, row, UsedSubtitles(name="film.en.srt"))
    catalog.finish(row, media=MEDIA, duration_seconds=60.0, warnings=())
    return catalog.directory


@pytest.mark.parametrize(
    "arguments", [("3fa9", "--format", "json"), ("--format", "json", "3fa9"), ("show", "3fa9", "--format", "json")]
)
def test_says_where_words_come_from(data: Path, arguments: tuple[str, ...]) -> None:
    done = kinodex("transcript", *arguments, "--data", str(data))
    assert done.exit_code == 0
    assert done.stderr == "kinodex: 2 utterances from the subtitle file film.en.srt, 1 heard by the speech model\n"
    assert [one["source"] for one in json.loads(done.stdout)["utterances"]] == ["sidecar", "speech", "sidecar"]


def test_a_file_that_is_no_transcript_is_one_line_on_standard_error(data: Path, tmp_path: Path) -> None:
    done = kinodex("transcript", "import", "3fa9", str(tmp_path / "missing.srt"), "--data", str(data))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "no such file" in done.stderr
    done = kinodex("transcript", "import", "3fa9", "--data", str(data))
    assert done.exit_code == 2
