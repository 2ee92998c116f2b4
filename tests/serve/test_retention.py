"""server.retention: what it says, and what it refuses."""

import math
import os

import pytest

from serve.config import Limit, ServerConfig, parse_retention
from serve.errors import SettingsError
from serve.settings import load_settings

DAY = 86400.0


@pytest.mark.parametrize(
    ("texts", "limits"),
    [
        ([], {}),
        (["cams=7d"], {"cams": Limit(age_seconds=7 * DAY)}),
        (["default=30d,50GiB"], {"default": Limit(age_seconds=30 * DAY, size_bytes=50 * 2**30)}),
        (["a=90s", "b=1.5h", "c = 2w"], {"a": Limit(age_seconds=90), "b": Limit(age_seconds=5400),
                                         "c": Limit(age_seconds=14 * DAY)}),
        (["a=10MiB", "*=1TiB, 5m"], {"a": Limit(size_bytes=10 * 2**20),
                                     "*": Limit(age_seconds=300, size_bytes=2**40)}),
        # As a variable is split:
        (["cams=7d", "default=30d", "50GiB"], {"cams": Limit(age_seconds=7 * DAY),
                                               "default": Limit(age_seconds=30 * DAY, size_bytes=50 * 2**30)}),
    ],
)  # fmt: skip
def test_reads_ages_and_sizes(texts: list[str], limits: dict[str, Limit]) -> None:
    assert parse_retention(texts).limits == limits
    assert bool(parse_retention(texts)) == bool(limits)


def test_a_named_collection_comes_before_every_other() -> None:
    retention = parse_retention(["cams=7d", "*=1d"])
    assert retention.of("cams") == Limit(age_seconds=7 * DAY)
    assert retention.of("talks") == Limit(age_seconds=DAY, size_bytes=math.inf)
    assert parse_retention(["cams=7d"]).of("talks") is None


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["7d"], "must be like cams=7d"),
        (["=7d"], "must be like cams=7d"),
        (["cams=7"], "got '7' in 'cams=7'"),
        (["cams=7 years"], "got '7 years'"),
        (["cams=50GB"], "KiB, MiB, GiB, TiB"),
        (["cams=0d"], "got '0d'"),
        (["cams=-1d"], "got '-1d'"),
        (["cams="], "got ''"),
        (["cams==7d"], "got '=7d'"),
        (["cams=7d", "cams=50GiB"], "names the collection 'cams' twice"),
        (["cams=7d,12h"], "two limits of one kind"),
        (["cams=7d", "12h"], "two limits of one kind"),
    ],
)
def test_refuses_what_says_nothing(texts: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match="retention") as caught:
        ServerConfig(retention=tuple(texts))
    assert problem in str(caught.value)


def test_is_a_setting() -> None:
    os.environ["KINODEX_SERVER_RETENTION"] = "cams=7d, default=30d,50GiB"
    retention = parse_retention(load_settings().server.retention)
    assert retention.of("default") == Limit(age_seconds=30 * DAY, size_bytes=50 * 2**30)
    os.environ["KINODEX_SERVER_RETENTION"] = "cams=7 days"
    with pytest.raises(SettingsError, match="set by \\$KINODEX_SERVER_RETENTION"):
        load_settings()
