"""Make tests/golden/speech.ogg and speech.json: flite reads sentences, placed at known times, packed as Opus by ffmpeg.

Run by hand, where `flite` and `ffmpeg` are installed: python tests/golden/generate_speech.py
The times are where flite's waveform is louder than silence, so they come from nothing that the tests test.
"""

import json
import subprocess
import tempfile
import wave
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RATE_HZ = 16_000
LOUD = 0.01  # of full scale; flite's own silence is far under it
SENTENCES = [  # (onset in seconds, text)
    (1.0, "The train to Paris leaves at nine in the morning."),
    (5.5, "Please bring your passport and a warm coat."),
    (14.0, "We walked along the river until the sun went down."),
    (18.5, "Nobody answered the telephone."),
]
LENGTH_SECONDS = 24.0


def speak(text: str) -> np.ndarray:
    """Read a sentence, silence around it cut off: float (N,)."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", "slt", "-t", text, "-o", file.name], check=True)
        with wave.open(file.name) as sound:
            assert sound.getframerate() == RATE_HZ
            samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2") / 32768
    loud = np.flatnonzero(np.abs(samples) > LOUD)
    return samples[loud[0] : loud[-1]]


def main() -> None:
    track = np.zeros(round(LENGTH_SECONDS * RATE_HZ))
    spoken = []
    for onset_seconds, text in SENTENCES:
        samples = speak(text)
        begin = round(onset_seconds * RATE_HZ)
        track[begin : begin + len(samples)] = samples
        end_seconds = onset_seconds + len(samples) / RATE_HZ
        spoken.append({"text": text, "start_seconds": onset_seconds, "end_seconds": round(end_seconds, 3)})
    pcm = (track * 32767).astype("<i2").tobytes()
    packing = ["-c:a", "libopus", "-b:a", "20k", "-application", "voip", "-map_metadata", "-1", "-bitexact"]
    source = ["-f", "s16le", "-ar", str(RATE_HZ), "-ac", "1", "-i", "-"]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *source, *packing, HERE / "speech.ogg"], input=pcm, check=True)
    (HERE / "speech.json").write_text(json.dumps({"sentences": spoken}, indent=2) + "\n")


if __name__ == "__main__":
    main()
