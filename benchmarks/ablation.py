"""Measures each part of the search for moments: the full search, then without a part, or with another value.

    python -m benchmarks.ablation DATA QUERIES.json [--out FILE.md]
    python -m benchmarks.ablation DATA QUERIES.json --half report [--plots DIR]

DATA is a data directory with the videos of QUERIES.json (the format of `kinodex eval --queries`). Mixed questions are
made from spoken questions: they name what the whole video shows, and the spoken words. Values are chosen on the train
half. The report half is asked only once, of the full search, and its figures are broken down as in `kinodex eval`.
"""

import argparse
import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import serve.search.engine
import serve.search.intent
import serve.search.ranking
import serve.search.speech
import serve.search.target
import temporal.moments.ranges
from encoders.calibration import Calibration
from serve.cli.eval_tables import query_table
from serve.client.any_library import LocalLibrary
from serve.evaluate.figures import query_figures
from serve.evaluate.plots import draw
from serve.evaluate.queries import measure
from serve.evaluate.questions import Question, Questions, read_questions
from serve.search.intent import EQUAL_WEIGHT, Intent, read_intent
from serve.search.library import Library
from serve.settings import load_settings

SEEN_FORMS = (
    "show me the part where you can see {}", "when do we see {}?", "find the scene with {}", "the part with {}",
    "at what timestamp is {} shown?", "is there a moment with {} in it?", "what time does {} appear?", "where is {}?",
)  # fmt: skip
SAID_FORMS = (
    "who talks about {}?", "when does she mention {}?", "at what timestamp does the speaker say {}?",
    "the part where they talk about {}", "find where somebody says {}", "what do they say about {}?",
    "when is {} mentioned?", "where in the video is {} discussed?",
)  # fmt: skip
NOTHING = np.empty(0, np.int64)
NO_RANGES = temporal.moments.ranges.Ranges(stretch=NOTHING, first=NOTHING, last=NOTHING)
Patch = tuple[Any, str, Any]  # module or class, name, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to search: the full search, or a change to it."""

    name: str
    patches: Sequence[Patch] = ()
    moments: dict[str, Any] = field(default_factory=dict)  # changed fields of MomentConfig
    calibration: dict[str, Any] = field(default_factory=dict)  # changed fields of Calibration
    is_reworded: bool = False


def as_asked(text: str, channel: str = "all") -> Intent:
    """Read a question word for word: the intent without rewriting."""
    return Intent(text=text, speech_text=text, phrases=(), visual_weight=EQUAL_WEIGHT, speech_weight=EQUAL_WEIGHT)


def trust_all(seen_confidence: float, spoken: Any, intent: Intent) -> dict[str, float]:
    """Weigh the channels by the question alone, whatever their confidence."""
    return {"visual": intent.visual_weight, "dense": intent.speech_weight, "lexical": intent.speech_weight}


def alike(intent: Intent) -> Intent:
    return replace(intent, visual_weight=EQUAL_WEIGHT, speech_weight=EQUAL_WEIGHT)


RANGES, SPOKEN = temporal.moments.ranges, serve.search.speech
VARIANTS = (
    Variant(name="as it is"),
    Variant(name="no de-biasing bank", calibration={"bank_share": 0.0}),
    Variant(name="the whole bank taken out", calibration={"bank_share": 1.0}),
    Variant(name="the question alone as prompt", calibration={"templates": ("{}",)}),
    Variant(name="three prompts", calibration={"templates": ("{}", "a photo of {}", "a video frame of {}")}),
    Variant(name="smoothing at 1 s alone", moments={"smoothing_seconds": (1.0,)}),
    Variant(name="smoothing at 0.5 and 2 s", moments={"smoothing_seconds": (0.5, 2.0)}),
    Variant(name="no Kadane spans", patches=[(RANGES, "KADANE_ROUNDS", 0)]),
    Variant(name="no Otsu runs", patches=[(RANGES, "otsu_of", lambda ordered, counts: np.full(len(ordered), np.inf))]),
    Variant(name="edges not sharpened", patches=[(RANGES, "REFINE_ROUNDS", 0)]),
    Variant(name="no shots as moments", patches=[(RANGES, "shot_ranges", lambda *_: NO_RANGES)]),
    Variant(name="edges not snapped to cuts", moments={"snap_seconds": 0.0}),
    Variant(
        name="neither shots nor snapping",
        patches=[(RANGES, "shot_ranges", lambda *_: NO_RANGES)],
        moments={"snap_seconds": 0.0},
    ),
    Variant(name="score: ring contrast alone", moments={"ring_share": 1.0}),
    Variant(name="score: half ring contrast", moments={"ring_share": 0.5}),
    Variant(name="score: no ring contrast", moments={"ring_share": 0.0}),
    Variant(name="score: nothing off for chance", patches=[(RANGES, "NOISE_ERRORS", 0.0)]),
    Variant(name="score: short ones not shrunk", patches=[(RANGES, "SHRINK_SECONDS", 0.0)]),
    Variant(name="suppression from tIoU 0.3", moments={"tiou_threshold": 0.3}),
    Variant(name="suppression from tIoU 0.7", moments={"tiou_threshold": 0.7}),
    Variant(name="inner spans never stay", moments={"containment_share": 1.0}),
    Variant(name="inner spans stay from 0.7", moments={"containment_share": 0.7}),
    Variant(name="channels not gated by confidence", patches=[(serve.search.ranking, "channel_weights", trust_all)]),
    Variant(name="visual gate from 0", patches=[(serve.search.ranking, "MIN_VISUAL_TRUST", 0.0)]),
    Variant(name="visual gate from 0.7", patches=[(serve.search.ranking, "MIN_VISUAL_TRUST", 0.7)]),
    Variant(
        name="channels weighed alike",
        patches=[(serve.search.target, "read_intent", lambda text, channel="all": alike(read_intent(text, channel)))],
    ),
    Variant(name="speech: no pairs of utterances", patches=[(SPOKEN, "JOINED_COUNT", 0)]),
    Variant(name="speech: meaning alone", patches=[(serve.search.engine, "terms_of", lambda intent: [])]),
    Variant(name="speech: words twice as heavy", patches=[(SPOKEN, "LEXICAL_SHARE", 0.4)]),
    Variant(name="everyday questions", is_reworded=True),
    Variant(
        name="everyday questions, not rewritten",
        is_reworded=True,
        patches=[(serve.search.target, "read_intent", as_asked)],
    ),
)  # fmt: skip


@contextlib.contextmanager
def patched(variant: Variant) -> Iterator[None]:
    """Search in the way of a variant until the block ends."""
    real = serve.search.engine.calibration_in

    def calibration_in(*arguments: Any) -> Calibration:
        return replace(real(*arguments), **variant.calibration)

    with contextlib.ExitStack() as stack:
        for owner, name, value in (*variant.patches, (serve.search.engine, "calibration_in", calibration_in)):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def reworded(questions: Sequence[Question]) -> tuple[Question, ...]:
    """Put each question into an everyday form, each form in turn."""
    found = []
    for n, one in enumerate(questions):
        if one.channel == "mixed":  # is in an everyday form already
            found.append(one)
            continue
        forms = SEEN_FORMS if one.channel == "visual" else SAID_FORMS
        target = read_intent(one.text).text if one.channel == "speech" else one.text
        found.append(replace(one, text=forms[n % len(forms)].format(target)))
    return tuple(found)


def with_mixed(questions: Questions) -> Questions:
    """Add for each spoken moment a question that names the content of its video and the spoken words."""
    captions = {one.file: one.text for one in reversed(questions.videos)}
    mixed = tuple(
        replace(one, channel="mixed", text=f"{captions[one.file]}, and somebody says {read_intent(one.text).text}")
        for one in questions.moments
        if one.channel == "speech" and one.file in captions
    )
    return replace(questions, moments=questions.moments + mixed)


def measured(variant: Variant, data: Path, questions: Questions, plots: Path | None = None) -> dict[str, Any]:
    settings = load_settings(data, None)
    settings = replace(settings, moments=replace(settings.moments, **variant.moments))
    if variant.is_reworded:
        questions = replace(questions, moments=reworded(questions.moments))
    with patched(variant), Library.open(data, settings) as library:
        answered = measure(LocalLibrary(library), questions)
    found = query_figures(answered)
    if plots is not None:
        draw(answered, found, plots)
    return found


COLUMNS = ("R1@0.5", "R1@0.7", "mAP", "mIoU")


def row(name: str, found: dict[str, Any]) -> str:
    cells = []
    for channel, where in (("visual", "video"), ("visual", "library"), ("speech", "library"), ("mixed", "library")):
        part = found["moments"][channel][where]
        cells.append(" / ".join(f"{part[column]:.0f}" for column in COLUMNS))
    videos = found["videos"]
    cells.append(f"{videos['R@1']:.0f} / {videos['R@5']:.0f}")
    cells.append(f"{found['rejection']['all']['F1']:.0f}")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("--half", choices=["train", "report"], default="train")
    parser.add_argument("--plots", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    questions = with_mixed(read_questions(args.queries).of(args.half))
    counts = {name: sum(one.channel == name for one in questions.moments) for name in ("visual", "speech", "mixed")}
    about = (
        f"{date.today()}, {os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}: moments"
        f" {counts['visual']} seen, {counts['speech']} said, {counts['mixed']} mixed; {len(questions.videos)} whole"
        f" videos, {len(questions.absent)} absent."
    )
    if args.half == "report":
        print(about, query_table(measured(VARIANTS[0], args.data, questions, args.plots)), sep="\n\n")
        return
    lines = [
        "# What each part of the search is worth", "",
        f"`python -m benchmarks.ablation DATA QUERIES.json`, {about}", "",
        "Moments: R1@0.5 / R1@0.7 / mAP / mIoU; videos: R@1 / R@5; absent: F1 of being told NO_MATCH; in per cent.", "",
        "| search | seen, in its video | seen, in the library | said, in the library | mixed, in the library"
        " | whole videos | absent |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    print("\n".join(lines), flush=True)
    for variant in VARIANTS:
        lines.append(row(variant.name, measured(variant, args.data, questions)))
        print(lines[-1], flush=True)
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
