"""server.quotas: what it says, and what it refuses."""

import pytest

from serve.config import Quota, ServerConfig, parse_quotas

HOUR = 3600.0


@pytest.mark.parametrize(
    ("texts", "quotas"),
    [
        ([], {}),
        (["talks=500h"], {"talks": Quota(length_seconds=500 * HOUR)}),
        (["talks=2000videos,1.5h"], {"talks": Quota(video_count=2000, length_seconds=1.5 * HOUR)}),
        # As a variable is split:
        (["a=2videos", "9h", "*=1 videos"], {"a": Quota(video_count=2, length_seconds=9 * HOUR),
                                             "*": Quota(video_count=1)}),
    ],
)  # fmt: skip
def test_reads_videos_and_hours(texts: list[str], quotas: dict[str, Quota]) -> None:
    assert parse_quotas(texts).quotas == quotas


def test_a_named_collection_comes_before_every_other() -> None:
    quotas = parse_quotas(["talks=5videos", "*=1h"])
    assert quotas.of("talks") == Quota(video_count=5)
    assert quotas.of("films") == Quota(length_seconds=HOUR)
    assert parse_quotas(["talks=5videos"]).of("films") is None


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["5videos"], "must be like talks=500h"),
        (["talks=5"], "got '5' in 'talks=5'"),
        (["talks=50GiB"], "videos, of hours"),
        (["talks=0videos"], "got '0videos'"),
        (["talks="], "got ''"),
        (["talks=7h", "talks=5videos"], "names the collection 'talks' twice"),
        (["talks=7h,1h"], "two limits of one kind"),
    ],
)
def test_refuses_what_says_nothing(texts: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match="quotas") as caught:
        ServerConfig(quotas=tuple(texts))
    assert problem in str(caught.value)
