"""The commands about who speaks: kinodex speakers, and questions for one speaker."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kinodex.v1 import library_service_pb2 as library
from serve.catalog.catalog import Catalog
from serve.cli.main import cli
from serve.codec.utterances import speaker_message
from serve.values import Speaker
from support.fake_server import serving
from support.sample_catalog import MEDIA, WIDTH, new_video, unit, utterance

ANA = Speaker(number=1, name="Ana", utterance_count=1, speech_seconds=5.0, start_seconds=0.0)


def kinodex(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.fixture
def data(catalog: Catalog) -> Path:
    row = catalog.begin(new_video("3fa9c0ffee"))
    said = [replace(utterance(text, 5.0 * n), speaker=n + 1) for n, text in enumerate(("Hello there.", "Good bye."))]
    catalog.add_utterances(row, said, unit(np.ones((2, WIDTH), np.float32)))
    catalog.finish(row, media=MEDIA, duration_seconds=60.0, warnings=())
    silent = catalog.begin(new_video("77770000"))
    catalog.finish(silent, media=MEDIA, duration_seconds=60.0, warnings=())
    return catalog.directory


def test_lists_and_names_the_speakers(data: Path) -> None:
    done = kinodex("speakers", "3fa9", "--data", str(data))
    assert (done.exit_code, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["SPEAKER", "NAME", "FROM", "SPEAKS", "UTTERANCES"],
        ["1", "0:00", "0:05", "1"],
        ["2", "0:05", "0:05", "1"],
    ]
    done = kinodex("speakers", "3fa9", "--name", "2=Ana  Bell", "--name", "1=Bob", "--json", "--data", str(data))
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["Bob", "Ana Bell"]
    done = kinodex("speakers", "3fa9", "--name", "1=", "--json", "--data", str(data))
    first = json.loads(done.stdout.splitlines()[0])
    assert first == {"number": 1, "name": None, "utterances": 1, "speech_seconds": 5.0, "start_seconds": 0.0}
    text = kinodex("transcript", "3fa9", "--data", str(data)).stdout
    assert text == "[0:00] speaker 1: Hello there.\n[0:05] Ana Bell: Good bye.\n"


def test_says_how_speakers_are_told_apart(data: Path) -> None:
    done = kinodex("speakers", "7777", "--data", str(data))
    assert (done.exit_code, done.stdout) == (0, "")
    assert "speech.speakers = true" in done.stderr


@pytest.mark.parametrize("name", ["Ana", "=Ana", "x=Ana", "-1=Ana", "2=" + "a" * 101, "2=a\u202eb", "2=\udcff"])
def test_a_name_that_is_none_is_a_wrong_command_line(data: Path, name: str) -> None:
    done = kinodex("speakers", "3fa9", "--name", name, "--data", str(data))
    assert done.exit_code == 2


def test_a_speaker_who_is_not_there_changes_nothing(data: Path) -> None:
    done = kinodex("speakers", "3fa9", "--name", "3=Ana", "--data", str(data))
    assert done.exit_code == 1
    assert "has no speaker 3" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--speaker", "2"], ["x", "--speaker", "2", "--channel", "visual"], ["x", "--speaker", "\udcff"]]
)
def test_a_speaker_needs_a_question_about_speech(arguments: list[str]) -> None:
    assert kinodex("moments", *arguments).exit_code == 2


def test_asks_a_server() -> None:
    answers: dict[str, list[Any]] = {
        "GetTranscript": [library.GetTranscriptResponse(speakers=[speaker_message(ANA)])],
        "NameSpeaker": [library.NameSpeakerResponse(speakers=[speaker_message(ANA)])],
    }
    with serving(answers) as server:
        done = kinodex("speakers", "v", "--name", "1=Ana", "--server", server.address, "--json")
        assert (done.exit_code, json.loads(done.stdout)["name"]) == (0, "Ana")
        assert server.requests["NameSpeaker"][0].name == "Ana"
