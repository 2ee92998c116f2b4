"""Settings: defaults < file < environment, and no mistake passes."""

import os
from pathlib import Path
from typing import Any

import pytest

from serve.errors import SettingsError
from serve.settings import Settings, data_directory, known_settings, load_settings, variable_name


@pytest.fixture(autouse=True)
def bare_environment() -> None:
    for name in [name for name in os.environ if name.startswith("KINODEX_")]:
        del os.environ[name]


def written(folder: Path, text: str, name: str = "kinodex.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def field(settings: Settings, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(settings, section) if section else settings, name)


def test_defaults_hold_where_nothing_is_set(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()


@pytest.mark.parametrize(
    ("toml", "key", "value"),
    [
        ('[visual]\nmodel = "mini"', "visual.model", "mini"),
        ("[visual]\nbatch_count = 7", "visual.batch_count", 7),
        ("[decode]\nmax_stall_seconds = 5", "decode.max_stall_seconds", 5.0),
        ("[decode]\ndecode_video = false", "decode.decode_video", False),
        ('[decode]\nsampling = "exact"', "decode.sampling", "exact"),
        ('[source]\nhosts = ["example.org", "*.example.net"]', "source.hosts", ("example.org", "*.example.net")),
        ("[moments]\nsmoothing_seconds = [1, 2.5]", "moments.smoothing_seconds", (1.0, 2.5)),
        ('[speech]\nlanguages = ["de", "ja"]', "speech.languages", ("de", "ja")),
        ('[sentence]\nmodel = "some/model"', "sentence.model", "some/model"),
        ("workers = 3", "workers", 3),
    ],
)
def test_reads_a_file(tmp_path: Path, toml: str, key: str, value: Any) -> None:
    found = field(load_settings(None, written(tmp_path, toml)), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("KINODEX_VISUAL_MODEL", "mini", "visual.model", "mini"),
        ("KINODEX_VISUAL_BATCH_COUNT", "7", "visual.batch_count", 7),
        ("KINODEX_DECODE_MAX_STALL_SECONDS", "5", "decode.max_stall_seconds", 5.0),
        ("KINODEX_DECODE_DECODE_VIDEO", "False", "decode.decode_video", False),
        ("KINODEX_SOURCE_HOSTS", "example.org, *.example.net", "source.hosts", ("example.org", "*.example.net")),
        ("KINODEX_SOURCE_PRIVATE_NETWORKS", "", "source.private_networks", ()),
        ("KINODEX_MOMENTS_SMOOTHING_SECONDS", "1,2.5", "moments.smoothing_seconds", (1.0, 2.5)),
        ("KINODEX_SPEECH_LANGUAGES", "de,yue", "speech.languages", ("de", "yue")),
        ("KINODEX_WORKERS", "3", "workers", 3),
    ],
)
def test_reads_a_variable(variable: str, text: str, key: str, value: Any) -> None:
    os.environ[variable] = text
    assert field(load_settings(), key) == value


def test_every_setting_has_a_variable_of_its_own() -> None:
    names = [variable_name(key) for key in known_settings()]
    assert len(set(names)) == len(names)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    os.environ["KINODEX_VISUAL_MODEL"] = "none"
    file = written(tmp_path, '[visual]\nmodel = "mini"\nbatch_count = 4')
    settings = load_settings(None, file)
    assert (settings.visual.model, settings.visual.batch_count) == ("none", 4)


def test_a_named_file_wins_over_the_variable_and_that_over_the_data_directory(tmp_path: Path) -> None:
    written(tmp_path, "workers = 3")
    other, named = written(tmp_path, "workers = 4", "other.toml"), written(tmp_path, "workers = 5", "named.toml")
    assert load_settings(tmp_path).workers == 3
    os.environ["KINODEX_CONFIG"] = str(other)
    assert load_settings(tmp_path).workers == 4
    assert load_settings(tmp_path, named).workers == 5


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ('[visul]\nmodel = "mini"', ["visul.model", "nearest known one is visual.model"]),
        ('[visual]\nmodle = "mini"', ["visual.modle", "nearest known one is visual.model"]),
        ("wokers = 2", ["unknown setting wokers ", "nearest known one is workers"]),
        ("[visual]\nmodel = 3", ["visual.model", "must be text", "3"]),
        ("[decode]\nmax_pixels = true", ["decode.max_pixels", "must be a whole number", "True"]),
        ("[decode]\nmax_pixels = 2.5", ["decode.max_pixels", "must be a whole number"]),
        ("[decode]\nmax_stall_seconds = nan", ["decode.max_stall_seconds", "must be a number"]),
        ('[decode]\nsampling = "slow"', ["decode.sampling", "one of exact, fast, keyframes", "slow"]),
        ("[source]\nhosts = [3]", ["source.hosts", "must be text"]),
        ('[source]\nhosts = "example.org"', ["source.hosts", "must be a list, each text"]),
        ("[decode]\nmax_pixels = -3", ["max_pixels must be > 0, got -3", "decode.max_pixels in"]),
        ("workers = 0", ["workers must be >= 1, got 0"]),
        ("visual = 3", ["[visual]", "must be a table"]),
        ("[decode]\ninput_width = 3", ["decode.input_width", "the encoders decide it"]),
        ("[visual]\nmodel = mini", ["is not TOML", "line 2"]),
    ],
)
def test_a_wrong_file_is_an_error_that_names_key_and_file(tmp_path: Path, toml: str, parts: list[str]) -> None:
    file = written(tmp_path, toml)
    with pytest.raises(SettingsError) as caught:
        load_settings(None, file)
    for part in [*parts, str(file)]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text", "parts"),
    [
        ("KINODEX_VISUAL_MODLE", "mini", ["$KINODEX_VISUAL_MODLE", "KINODEX_VISUAL_MODEL"]),
        ("KINODEX_DAT", "x", ["$KINODEX_DAT", "KINODEX_DATA"]),
        ("KINODEX_WORKERS", "two", ["$KINODEX_WORKERS", "a whole number", "two"]),
        ("KINODEX_DECODE_DECODE_VIDEO", "maybe", ["true or false", "maybe"]),
        ("KINODEX_SPEECH_VAD_THRESHOLD", "nan", ["a number"]),
        ("KINODEX_DECODE_MAX_PIXELS", "-3", ["max_pixels must be > 0", "$KINODEX_DECODE_MAX_PIXELS"]),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it(variable: str, text: str, parts: list[str]) -> None:
    os.environ[variable] = text
    with pytest.raises(SettingsError) as caught:
        load_settings()
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read settings file"):
        load_settings(tmp_path, tmp_path / "absent.toml")


def test_variables_that_are_no_settings_are_known() -> None:
    os.environ |= {"KINODEX_DATA": "/somewhere", "KINODEX_REQUIRE": "gpu"}
    assert load_settings() == Settings()


def test_the_data_directory_is_the_one_asked_for_then_the_variable_then_the_default() -> None:
    assert data_directory(None) == Path("kinodex-data")
    os.environ["KINODEX_DATA"] = "/somewhere"
    assert data_directory(None) == Path("/somewhere")
    assert data_directory(Path("/here")) == Path("/here")
