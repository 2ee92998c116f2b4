"""What begins and ends, told frame by frame."""

import json

import numpy as np
import pytest

from temporal.hysteresis import UPDATE_SECONDS, Change, Hysteresis, Rules
from temporal.values import ChangeKind


def rules(count: int = 1, *, enter: float = 0.7, leave: float = 0.5, least: float = 0.0, pause: float = 0.0) -> Rules:
    return Rules(
        enter=np.full(count, enter),
        leave=np.full(count, leave),
        min_seconds=np.full(count, least),
        cooldown_seconds=np.full(count, pause),
    )


def run(curve: str, **given: float) -> list[tuple[str, float, float]]:
    """Read a curve of one frame a second, a digit each: its confidence in tenths. Its end is the video's."""
    tracks = Hysteresis(rules(**given))
    found = [one for at, digit in enumerate(curve) for one in tracks.step(at, np.array([int(digit) / 10]))]
    return told(found + tracks.finish(len(curve)))


def told(changes: list[Change]) -> list[tuple[str, float, float]]:
    return [(one.kind.value, one.start_seconds, one.end_seconds) for one in changes]


@pytest.mark.parametrize(
    ("curve", "given", "expected"),
    [
        ("0066600", {}, []),  # never high enough
        ("0080000", {}, [("OPENED", 2, 2), ("CLOSED", 2, 3)]),
        ("0086600", {}, [("OPENED", 2, 2), ("CLOSED", 2, 5)]),  # goes on between the thresholds
        ("0088488", {}, [("OPENED", 2, 2), ("CLOSED", 2, 7)]),  # a blink does not end it
        ("00880088", {}, [("OPENED", 2, 2), ("CLOSED", 2, 8)]),  # nor do two frames
        ("00880000088", {}, [("OPENED", 2, 2), ("CLOSED", 2, 4), ("OPENED", 9, 9), ("CLOSED", 9, 11)]),
        ("0080000", {"least": 2}, []),  # a flash
        ("0088000", {"least": 2}, [("OPENED", 2, 4), ("CLOSED", 2, 4)]),
        ("00808000", {"least": 2}, [("OPENED", 2, 4), ("CLOSED", 2, 5)]),  # a blink counts in
        ("88", {"least": 2}, [("OPENED", 0, 2), ("CLOSED", 0, 2)]),  # the end tells how long the last frame was shown
        ("8", {"least": 2}, []),
        ("88000088888", {"pause": 5}, [("OPENED", 0, 0), ("CLOSED", 0, 2), ("OPENED", 7, 7), ("CLOSED", 7, 11)]),
        ("88000088000", {"pause": 30}, [("OPENED", 0, 0), ("CLOSED", 0, 2)]),
    ],
)
def test_tells_what_begins_and_ends(curve: str, given: dict[str, float], expected: list[tuple[str, float, float]]):
    assert run(curve, **given) == expected


def test_what_goes_on_is_told_now_and_then():
    found = run("9" * 25)

    assert found[:3] == [("OPENED", 0, 0), ("UPDATED", 0, UPDATE_SECONDS), ("UPDATED", 0, 2 * UPDATE_SECONDS)]
    assert found[3:] == [("CLOSED", 0, 25)]


def test_tells_the_best_frame():
    tracks = Hysteresis(rules(least=2))
    for at, confidence in enumerate((0.8, 0.95, 0.9, 0.0, 0.0)):
        tracks.step(at, np.array([confidence]))
    (closed,) = tracks.step(5, np.array([0.0]))

    assert closed == Change(track=0, kind=ChangeKind.CLOSED, start_seconds=0, end_seconds=3, peak=0.95, peak_seconds=1)


def test_each_track_is_as_it_would_be_alone():
    random = np.random.default_rng(3)
    curves = random.uniform(0, 1, (200, 7)).round(1)
    mixed = Rules(
        enter=np.linspace(0.5, 0.9, 7),
        leave=np.linspace(0.1, 0.6, 7),
        min_seconds=np.arange(7.0) / 2,
        cooldown_seconds=np.arange(7.0),
    )
    together = Hysteresis(mixed)
    found = [one for at, row in enumerate(curves) for one in together.step(at, row)] + together.finish(200)

    for track in range(7):
        own = Rules(
            enter=mixed.enter[[track]],
            leave=mixed.leave[[track]],
            min_seconds=mixed.min_seconds[[track]],
            cooldown_seconds=mixed.cooldown_seconds[[track]],
        )
        alone = Hysteresis(own)
        expected = [one for at, row in enumerate(curves) for one in alone.step(at, row[[track]])] + alone.finish(200)
        assert told([one for one in found if one.track == track]) == told(expected)


def test_goes_on_from_what_was_kept():
    random = np.random.default_rng(4)
    curves = random.uniform(0, 1, (100, 3)).round(1)
    given = rules(3, least=2, pause=4)
    whole = Hysteresis(given)
    expected = [one for at, row in enumerate(curves) for one in whole.step(at, row)]

    found, tracks = [], Hysteresis(given)
    for at, row in enumerate(curves):
        kept = json.loads(json.dumps([tracks.state(track) for track in range(3)]))
        tracks = Hysteresis.restore(given, dict(enumerate(kept)))
        found += tracks.step(at, row)

    assert found == expected
    assert found


@pytest.mark.parametrize(
    ("given", "message"),
    [({"leave": 0.8}, "leave must be at most enter"), ({"least": -1}, "must be >= 0"), ({"pause": -1}, "must be >= 0")],
)
def test_rules_check_themselves(given: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        rules(**given)
