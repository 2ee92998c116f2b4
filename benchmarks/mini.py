"""Measures the speed of mini: frames a second in batches, against timm's network of the same name, and the load time.

    python benchmarks/mini.py [--out FILE.md]

Both embed the same random pictures on this machine in the same run. The best of several rounds counts.
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import timm
import torch

from encoders.config import SentenceConfig, VisualConfig
from encoders.mini import MiniEncoder
from encoders.sentence import SentenceEncoder

FRAME_COUNT = 512
ROUND_COUNT = 5
LOAD = (
    "import time; t = time.perf_counter(); import numpy as np; from encoders.clip import load_visual; "
    "from encoders.config import VisualConfig; e, _ = load_visual(VisualConfig(model='mini')); "
    "a = time.perf_counter(); e.encode_texts(['a dog']); b = time.perf_counter(); "
    "e.encode_frames(np.zeros((1, e.input_height, e.input_width, 3), np.uint8)); "
    "print(a - t, b - t, time.perf_counter() - t)"
)


def frames_per_second(embed: Callable[[], object]) -> float:
    """Return the best figure of several rounds."""
    embed()
    best = 0.0
    for _ in range(ROUND_COUNT):
        began = time.perf_counter()
        embed()
        best = max(best, FRAME_COUNT / (time.perf_counter() - began))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    encoder = MiniEncoder.load(VisualConfig(), SentenceEncoder.load(SentenceConfig()))
    shape = (FRAME_COUNT, encoder.input_height, encoder.input_width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ours = frames_per_second(lambda: encoder.encode_frames(pixels))

    peer = timm.create_model("tf_efficientnet_lite2", num_classes=384).eval().to(memory_format=torch.channels_last)

    def plain(dtype: torch.dtype) -> None:
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            for start in range(0, FRAME_COUNT, 32):
                batch = torch.from_numpy(pixels[start : start + 32]).permute(0, 3, 1, 2).float() / 127.5 - 1
                peer(batch)

    theirs = {
        str(dtype): frames_per_second(lambda dtype=dtype: plain(dtype)) for dtype in (torch.float32, torch.bfloat16)
    }
    loads = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True).stdout.split()
    lines = ["| | frames a second | ours over it |", "| --- | --- | --- |", f"| mini | {ours:.0f} | |"]
    for name, value in theirs.items():
        lines.append(f"| timm tf_efficientnet_lite2, {name} | {value:.0f} | {ours / value:.2f} |")
    ready, question, frame = (float(seconds) for seconds in loads)
    lines += ["", f"In a new process: loaded after {ready:.2f} s, first question answered after {question:.2f} s,"]
    lines += [f"first frame embedded after {frame:.2f} s (torch is imported for it)."]
    print("\n".join(lines))
    if args.out is not None:
        machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
        head = ["# Speed of mini", "", f"`python {' '.join(sys.argv)}`, {date.today()}, {machine}.", ""]
        args.out.write_text("\n".join([*head, *lines, ""]))


if __name__ == "__main__":
    main()
