"""Visual rules: pictures of a policy that the encoder cannot tell are off, and the command says why."""

import json
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result

from encoders.caption_bank import BANK
from encoders.config import SentenceConfig, SpeechConfig, VisualConfig
from encoders.mini import FOLDER, MiniEncoder
from encoders.sentence import SentenceEncoder
from kinodex.v1 import moderation_service_pb2 as moderation
from kinodex.v1.moderation_service_pb2_grpc import ModerationServiceStub
from serve.catalog.catalog import Catalog
from serve.cli.main import cli
from serve.evaluate.policies import find_policy_events
from serve.indexing.pipeline import index
from serve.moderation import visual_rules
from serve.moderation.policies import STARTER, Policies, Policy, read_policies
from serve.moderation.scoring import generality_of, text_confidences
from serve.moderation.video_scorer import Rulebook
from serve.moderation.visual_rules import (
    MEASURED,
    Measurements,
    RuleMeasurement,
    read_measurements,
    shipped,
    visual_rule,
    write_measurements,
)
from serve.search.library import Library
from serve.settings import Settings
from serve.values import Thresholds, Video
from support.fakes import SilentProgress, use_fakes, write_scenes
from support.running import running
from support.sample_catalog import SPACE
from support.waiting import wait_until

GUN = Policy(policy_id="gun", label="Gun", shows=("a gun",), unlike=("a drill",), says=("gun",))
TOLD = RuleMeasurement(
    label="Gun", shows=("a gun",), unlike=("a drill",), enter=0.7, picture_count=20, found_count=10,
    wrong_event_count=0, hours=0.3,
)  # fmt: skip
RED = Policy(policy_id="red", label="Red", shows=("red",), says=("paris",), min_seconds=1.0, cooldown_seconds=0.0)
NOT_TOLD = replace(TOLD, label="Red", shows=("red",), unlike=(), found_count=9)
# In each of these an earlier version opened a wrong event: a jug was drug use, and there were a weapon and a fire.
ONCE_WRONG = (
    "PySceneDetect__issue-195-aspect-ratio.mp4",
    "simpl__video.webm",
    "xuggle-xuggler__testfile_mpeg1video_mp2audio.mpg",
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["policies", *map(str, arguments)])


def measure(
    monkeypatch: pytest.MonkeyPatch, *rules: RuleMeasurement, encoder: str = "mini", fingerprint: str = "f"
) -> None:
    """Make these the measurements of the built-in encoder, which has this name and fingerprint."""
    monkeypatch.setattr(visual_rules, "shipped", lambda: Measurements(fingerprint=fingerprint, rules=rules))
    monkeypatch.setattr(visual_rules, "MINI", encoder)


@pytest.mark.parametrize(
    ("changes", "can_tell"),
    [
        ({}, True),
        ({"picture_count": 19}, False),
        ({"found_count": 9}, False),
        ({"wrong_event_count": 1}, False),
        ({"wrong_event_count": 1, "hours": 1.0}, True),
        ({"picture_count": 0, "found_count": 0}, False),
    ],
)
def test_a_policy_is_told_if_enough_pictures_are_found_with_few_wrong_events(
    changes: dict[str, float], can_tell: bool
) -> None:
    assert replace(TOLD, **changes).can_tell is can_tell  # type: ignore[arg-type]


def test_what_is_not_told_is_off_unless_the_file_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    measure(monkeypatch, replace(TOLD, found_count=3))
    off, on = (visual_rule(policy, "mini", "f") for policy in (GUN, replace(GUN, visual="on")))
    assert off is not None
    assert on is not None
    assert (off.is_on, on.is_on) == (False, True)
    assert off.note == "mini cannot tell Gun: 3 of 20 pictures of it reach 0.7; 0 wrong events in 0.3 h of video"
    assert on.note == f"on by the policy file, though {off.note}"


def test_what_is_told_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    measure(monkeypatch, TOLD)
    found = visual_rule(GUN, "mini", "f")
    assert found is not None
    assert found.is_on


@pytest.mark.parametrize(
    ("policy", "encoder", "fingerprint"),
    [
        (replace(GUN, shows=("a gun in a hand",)), "mini", "f"),  # prompts of one's own
        (GUN, "mini", "trained anew"),
        (GUN, "ViT-B-16/openai", "f"),
    ],
)
def test_what_was_never_measured_is_on_and_says_so(
    policy: Policy, encoder: str, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(monkeypatch, replace(TOLD, found_count=3))
    found = visual_rule(policy, encoder, fingerprint)
    assert found is not None
    assert (found.is_on, found.note) == (True, f"{encoder} was never measured on these prompts")


def test_words_alone_have_no_pictures() -> None:
    assert visual_rule(Policy(policy_id="x", label="X", says=("x",)), "mini", None) is None
    without = visual_rule(GUN, "none", "none")
    assert without is not None
    assert (without.is_on, without.note) == (False, "the library has no visual encoder")


def test_measurements_are_stored_and_read(tmp_path: Path) -> None:
    write_measurements(tmp_path / "policies.json", "f", [TOLD, NOT_TOLD])
    assert read_measurements(tmp_path / "policies.json") == Measurements(fingerprint="f", rules=(TOLD, NOT_TOLD))


def test_the_shipped_measurements_are_those_of_mini_and_of_the_starter_set() -> None:
    """After a change of either, run benchmarks/policies.py with --write."""
    assert MEASURED.parent == FOLDER
    encoder = MiniEncoder.load(VisualConfig(), SentenceEncoder.load(SentenceConfig()))
    assert shipped().fingerprint == encoder.fingerprint
    for policy in read_policies(STARTER).policies:
        measured = shipped().of(policy)
        assert measured is not None, policy.policy_id
        assert (measured.label, measured.enter) == (policy.label, policy.enter)


def test_the_command_says_what_mini_cannot_tell_and_how_to_turn_it_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # there is no library here
    shown = run().output
    assert "\nviolence.weapon: pictures off: mini cannot tell Weapon: " in shown
    assert "`visual: on`" in shown
    (weapon,) = [
        each for each in json.loads(run("--json").stdout)["policies"] if each["policy_id"] == "violence.weapon"
    ]
    assert weapon["visual_state"] == "off"
    assert weapon["visual_note"].startswith("mini cannot tell Weapon: ")
    own = tmp_path / "own.yaml"
    own.write_text(json.dumps({"version": "1", "policies": [{"id": "car", "label": "Car", "shows": ["a red car"]}]}))
    assert "\ncar: pictures on: mini was never measured on these prompts\n" in run(own).output
    assert "`visual: on`" not in run(own).output


def test_the_command_asks_for_the_encoder_of_the_library(tmp_path: Path) -> None:
    with Catalog.open_writer(tmp_path / "data") as catalog:
        catalog.set_space(replace(SPACE, visual="ViT-B-16/openai"))
    assert "fire: pictures on: ViT-B-16/openai was never measured" in run("--data", tmp_path / "data").output
    assert run("--data", tmp_path / "none").stderr.startswith("kinodex: error: no library in ")


@pytest.mark.slow
def test_pictures_that_are_off_open_no_event_and_words_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)
    film = write_scenes(tmp_path / "film.mp4", [("green", 3), ("red", 4)], tones=[(440, 1.0)])
    list(index([str(film)], tmp_path / "data", Settings(workers=1), progress=SilentProgress()))
    with Library.open(tmp_path / "data", Settings(workers=1)) as library:
        library.engine.refresh()
        (video,) = library.videos()

        def channels(policy: Policy) -> tuple[int, int]:
            visual, said, _ = _score(library, policy, video)
            return visual, said

        assert channels(RED) == (1, 1)
        measure(monkeypatch, NOT_TOLD, encoder="colour", fingerprint="c0104")
        assert channels(RED) == (0, 1)
        assert channels(replace(RED, enter=0.0, leave=0.0)) == (0, 1)  # no confidence is enough
        assert channels(replace(RED, visual="on")) == (1, 1)
        digests = {_score(library, policy, video)[2] for policy in (RED, replace(RED, visual="on"))}
        assert len(digests) == 2  # a change scores the videos anew


@pytest.mark.slow
def test_the_command_that_scores_and_the_server_say_what_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fakes(monkeypatch)
    film = write_scenes(tmp_path / "film.mp4", [("green", 3), ("red", 4)])
    data, settings = tmp_path / "data", Settings(workers=1)
    list(index([str(film)], data, settings, progress=SilentProgress()))
    measure(monkeypatch, NOT_TOLD, encoder="colour", fingerprint="c0104")
    (data / "policies.yaml").write_text(
        json.dumps({"version": "1", "policies": [{"id": "red", "label": "Red", "shows": ["red"]}]})
    )
    scored = CliRunner().invoke(cli, ["rescore", "--data", str(data)]).output
    why = f"kinodex policies {data / 'policies.yaml'} says why"
    assert scored == (
        f"1 video scored by version 1: 0 changes, 0 events in all\npolicies whose pictures are off: 1; {why}\n"
    )
    with running(data, settings) as server, grpc.insecure_channel(server.address) as channel:
        stub = ModerationServiceStub(channel)
        wait_until(lambda: len(stub.ListPolicies(moderation.ListPoliciesRequest()).policies) > 0)
        (red,) = stub.ListPolicies(moderation.ListPoliciesRequest()).policies
    assert red.visual_state == moderation.Policy.VISUAL_STATE_OFF
    assert red.visual_note.startswith("colour cannot tell Red: 9 of 20 pictures of it reach 0.7")


def _score(library: Library, policy: Policy, video: Video) -> tuple[int, int, str]:
    """Return the counts of events of pictures and of words, and the digest of the rulebook."""
    book = Rulebook(Policies(version="1", policies=(policy,)), "default", library.engine.visual, "f")
    events = find_policy_events(library, book, video)
    return len(events.visual[0]), len(events.speech[0]), book.digest


@pytest.mark.slow
def test_the_starter_set_opens_no_wrong_event_where_it_did(shared: Path, tmp_path: Path) -> None:
    """Not even with all pictures on."""
    settings = Settings(workers=1, visual=VisualConfig(model="mini"), speech=SpeechConfig(model="none"))
    files = [str(shared / "videos" / "files" / name) for name in ONCE_WRONG]
    outcomes = list(index(files, tmp_path / "data", settings, progress=SilentProgress()))
    assert [outcome.status for outcome in outcomes] == ["indexed"] * 3
    starter = read_policies(STARTER)
    all_on = replace(starter, policies=tuple(replace(policy, visual="on") for policy in starter.policies))
    with Library.open(tmp_path / "data", settings) as library:
        library.engine.refresh()
        for policies in (starter, all_on):
            book = Rulebook(policies, "default", library.engine.visual, library.engine.fingerprint)
            for video in library.videos():
                events = find_policy_events(library, book, video)
                opened = [policy.policy_id for policy, spans in zip(book.policies, events.visual, strict=True) if spans]
                assert opened == [], video.uri


@pytest.mark.slow
def test_a_flat_grey_picture_opens_nothing() -> None:
    """With the built-in encoder, of any grey, of all policies of the starter set and all captions of anything."""
    encoder = MiniEncoder.load(VisualConfig(device="cpu"), SentenceEncoder.load(SentenceConfig()))
    side = encoder.input_width
    greys = np.stack([np.full((side, side, 3), grey, np.uint8) for grey in range(0, 256, 15)])
    starter = read_policies(STARTER).policies
    bank, prompts = encoder.encode_texts(BANK), [prompt for policy in starter for prompt in policy.shows]
    texts = np.concatenate([bank, encoder.encode_texts(prompts)])

    confidences = text_confidences(
        encoder.encode_frames(greys), texts, generality_of(texts, bank), bank, encoder.calibration.moment
    )

    assert confidences.max() < Thresholds().enter
