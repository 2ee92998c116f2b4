"""Finds planted moments on synthetic curves: ours against Kadane on the mean-centred raw curve.

    python -m benchmarks.moments [--trials 200]

Curves have a value for each second: background 0.20, a moment 0.05 higher, Gaussian noise of 0.02. The table goes to
benchmarks/results/moments.md. This is a toy: it shows where a method breaks, not how good search is. The second part
uses videos of up to ten hours with three moments, whose pictures change a little between seconds and much between
shots. Is each moment found, and what do time and memory cost?
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from temporal.config import MomentConfig
from temporal.moments.moments import find_moments, tiou
from temporal.moments.shots import Changes
from temporal.values import TimeSpan

RESULTS = Path(__file__).parent / "results" / "moments.md"
BACKGROUND, RISE, NOISE = 0.20, 0.05, 0.02  # typical similarities of CLIP
Reader = Callable[[NDArray[np.float32]], list[TimeSpan]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A kind of curve."""

    moment_seconds: int
    video_seconds: int
    correlation: float = 0.0  # correlation of the noise between neighbouring seconds (AR(1), same variance)
    outlier: float = 0.0  # added to a random second

    @property
    def name(self) -> str:
        minutes = f"{self.video_seconds} s" if self.video_seconds < 3600 else f"{self.video_seconds // 3600} h"
        noise = f", noise correlated {self.correlation:g}" if self.correlation else ""
        outlier = f", one frame +{self.outlier:g}" if self.outlier else ""
        return f"{self.moment_seconds} s / {minutes}{noise}{outlier}"


SETTINGS = [
    Setting(moment_seconds=moment, video_seconds=video, correlation=correlation, outlier=outlier)
    for correlation, outlier in ((0.0, 0.0), (0.7, 0.0), (0.0, 0.1))
    for moment, video in ((5, 150), (5, 3600), (20, 3600), (60, 150), (60, 3600))
]

EMPTY = [
    Setting(moment_seconds=0, video_seconds=video, correlation=correlation)
    for correlation in (0.0, 0.7)
    for video in (150, 3600)
]


def draw(setting: Setting, rng: np.random.Generator) -> tuple[NDArray[np.float32], TimeSpan]:
    """A curve, and the moment planted in it."""
    noise = rng.standard_normal(setting.video_seconds)
    if setting.correlation:
        for t in range(1, len(noise)):
            noise[t] = setting.correlation * noise[t - 1] + np.sqrt(1 - setting.correlation**2) * noise[t]
    curve = BACKGROUND + NOISE * noise
    start = int(rng.integers(0, setting.video_seconds - setting.moment_seconds + 1))
    curve[start : start + setting.moment_seconds] += RISE
    curve[rng.integers(setting.video_seconds)] += setting.outlier
    truth = TimeSpan(start_seconds=float(start), end_seconds=float(start + setting.moment_seconds))
    return curve.astype(np.float32), truth


def ours(curve: NDArray[np.float32]) -> list[TimeSpan]:
    times = np.arange(len(curve), dtype=np.float64)
    found = find_moments(times, curve, duration_seconds=float(len(curve)), config=MomentConfig())
    return [moment.span for moment in found]


def mean_centred_kadane(curve: NDArray[np.float32]) -> list[TimeSpan]:
    """Read a moment as REZE does (https://arxiv.org/abs/2608.04480): the run with the largest sum above the mean."""
    best, total, start, span = 0.0, 0.0, 0, TimeSpan(start_seconds=0.0, end_seconds=0.0)
    for t, value in enumerate((curve - curve.mean()).tolist()):
        if total <= 0:
            total, start = 0.0, t
        total += value
        if total > best:
            best, span = total, TimeSpan(start_seconds=float(start), end_seconds=float(t + 1))
    return [span]


def mean_tiou(read: Reader, setting: Setting, trials: int) -> float:
    """Return the mean overlap (tIoU) of the best moment and the planted one."""
    rng = np.random.default_rng(0)
    overlaps = []
    for _ in range(trials):
        curve, truth = draw(setting, rng)
        answers = read(curve)
        overlaps.append(tiou(answers[0], truth) if answers else 0.0)
    return float(np.mean(overlaps))


def mean_answer_count(setting: Setting, trials: int) -> float:
    """Return the mean count of moments. On curves without a planted moment it should be small."""
    rng = np.random.default_rng(0)
    return float(np.mean([len(ours(draw(setting, rng)[0])) for _ in range(trials)]))


LONG_HOURS = (1, 2, 5, 10)
LONG_MOMENTS_SECONDS = (5, 20, 60)
SHOT_SECONDS = 8.0  # mean length of a shot


def long_row(hours: int) -> str:
    """Find three moments in a long video. Return their tIoU, milliseconds (best of three runs), and peak MiB."""
    rng = np.random.default_rng(hours)
    count = hours * 3600
    curve = (BACKGROUND + NOISE / 2 * rng.standard_normal(count)).astype(np.float32)
    truths = []
    for n, seconds in enumerate(LONG_MOMENTS_SECONDS):
        start = count // 4 * (n + 1)
        curve[start : start + seconds] += RISE
        truths.append(TimeSpan(start_seconds=float(start), end_seconds=float(start + seconds)))
    strengths = rng.uniform(0.0, 0.1, count - 1).astype(np.float32)
    is_cut = rng.random(count - 1) < 1 / SHOT_SECONDS
    strengths[is_cut] += 0.4
    changes = Changes(seconds=np.arange(count - 1) + 0.5, strengths=strengths, is_cut=is_cut)
    times = np.arange(count, dtype=np.float64)

    def find() -> list[TimeSpan]:
        found = find_moments(times, curve, duration_seconds=float(count), changes=changes, config=MomentConfig())
        return [moment.span for moment in found]

    took = []
    for _ in range(3):
        began = time.perf_counter()
        answers = find()
        took.append(time.perf_counter() - began)
    tracemalloc.start()
    find()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    overlaps = " | ".join(f"{max(tiou(answer, truth) for answer in answers):.2f}" for truth in truths)
    return f"| {hours} | {overlaps} | {1000 * min(took):.0f} | {peak_bytes / 2**20:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    lines = [
        f"Mean tIoU of the best answer over {trials} curves a row (`python -m benchmarks.moments --trials {trials}`).",
        "",
        "| moment / video | Kadane on the mean-centred raw curve | ours |",
        "| --- | --- | --- |",
    ]
    for setting in SETTINGS:
        theirs, mine = (mean_tiou(read, setting, trials) for read in (mean_centred_kadane, ours))
        lines.append(f"| {setting.name} | {theirs:.3f} | {mine:.3f} |")
        print(lines[-1], flush=True)
    lines += ["", "Answers to a curve that holds no moment:", "", "| none / video | answers |", "| --- | --- |"]
    for setting in EMPTY:
        lines.append(f"| {setting.name} | {mean_answer_count(setting, trials):.1f} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "Moments of 5, 20 and 60 s in long videos, noise 0.01: tIoU of the answer nearest to each of them.",
        "",
    ]
    lines += ["| hours | 5 s | 20 s | 60 s | ms | MiB |", "| --- | --- | --- | --- | --- | --- |"]
    for hours in LONG_HOURS:
        lines.append(long_row(hours))
        print(lines[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
