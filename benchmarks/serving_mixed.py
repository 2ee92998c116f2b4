"""The mixed load of benchmarks/serving.py: clients that ask, a client whose videos come and go, and their costs."""

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import grpc
import numpy as np
from sampling import descendants
from serving_load import CALL_SECONDS, request_of, status_of

from kinodex.v1 import search_service_pb2_grpc
from serve.catalog.catalog import Catalog
from serve.client.client import Client
from serve.errors import ServerFailed
from serve.indexing.jobs import JobQueue
from serve.values import Filter, Query, VideoState

UPLOADS = "benchmark"  # collection of the videos that come and go
UPLOAD_SECONDS, UPLOAD_FPS = 4, 12


@dataclass(frozen=True, slots=True)
class Asked:
    """A call of the mixed load."""

    kind: str
    ended_seconds: float  # since the start of the load
    taken_seconds: float
    code: str


def ask_mixed(pipe: Any, address: str, known: Sequence[str], new: Sequence[str], clients: int, seconds: float) -> None:
    """Ask known and new texts for moments and videos, and sometimes for the next two pages. Send the calls back."""
    done: list[Asked] = []
    fresh = iter(new)

    async def call(stubs: Any, kind: str, method: str, request: Any, started: float) -> Any:
        before, code, answer = time.monotonic(), "OK", None
        try:
            answer = await getattr(stubs, method)(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            code = f"{error.code().name}: {error.details()}"
        done.append(Asked(kind, time.monotonic() - started, time.monotonic() - before, code))
        return answer

    async def client(number: int, started: float) -> None:
        rng = random.Random(number)
        async with grpc.aio.insecure_channel(address) as channel:
            stubs = search_service_pb2_grpc.SearchServiceStub(channel)
            while time.monotonic() < started + seconds:
                what = "moments" if rng.random() < 0.7 else "videos"
                method = f"Search{what.title()}"
                is_new = rng.random() < 0.3
                request = request_of(method, next(fresh) if is_new else rng.choice(known))
                kind = f"{what}, {'new' if is_new else 'known'}"
                answer = await call(stubs, kind, method, request, started)
                for _ in range(2 if rng.random() < 0.2 else 0):
                    if answer is None or not answer.next_page_token:
                        break
                    request.page_token = answer.next_page_token
                    answer = await call(stubs, f"{what}, next page", method, request, started)

    async def run() -> None:
        started = time.monotonic()
        await asyncio.gather(*(client(number, started) for number in range(clients)))

    asyncio.run(run())
    pipe.send(done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """A video that came and went: the seconds of each step."""

    sent: float
    ready: float  # from the end of the upload to READY
    found: float  # a question about it, and the list of videos
    deleted: float


class Uploader:
    """A client that uploads small videos, checks that they are found, and deletes them, until stop()."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder
        self.cycles: list[Cycle] = []
        self.errors: Counter[str] = Counter()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, name="uploader")

    def run(self) -> None:
        with Client(self.address) as client:
            while not self.stopping.is_set():
                try:
                    self.cycles.append(self.cycle(client))
                except (ServerFailed, AssertionError) as error:
                    self.errors[f"{type(error).__name__}: {error}"] += 1
                    time.sleep(1)

    def cycle(self, client: Client) -> Cycle:
        path = self.folder / "upload.mp4"
        moving_colours(path, np.random.default_rng())
        times = [time.monotonic()]
        video = client.upload(path, collection=UPLOADS)
        times.append(time.monotonic())
        video = client.wait(video.video_id, UPLOADS, timeout_seconds=300)
        assert video.state is VideoState.READY, f"{video.state}: {video.failure_message}"
        times.append(time.monotonic())
        about = Query(text="moving colours", filter=Filter(video_ids=(video.video_id,)), limit=3)
        answer = client.moments(about)
        assert answer.moments, "no moment of it is found"
        assert {one.video_id for one in answer.moments} == {video.video_id}, "other videos than it are found"
        assert video.video_id in {one.video_id for one in client.videos(UPLOADS)}, "it is not listed"
        times.append(time.monotonic())
        client.delete(video.video_id, UPLOADS)
        times.append(time.monotonic())
        assert code_of(lambda: client.moments(about)) == "NOT_FOUND", "it is found after it was deleted"
        sent, ready, found, deleted = np.diff(times).tolist()
        return Cycle(sent=sent, ready=ready, found=found, deleted=deleted)


def code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except ServerFailed as error:
        return error.code
    return "OK"


def moving_colours(path: Path, rng: np.random.Generator) -> None:
    """Write a small real video, different each time."""
    with av.open(str(path), "w") as sink:
        stream = sink.add_stream("mpeg4", rate=UPLOAD_FPS)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 160, 120, "yuv420p", Fraction(1, UPLOAD_FPS)
        colour = rng.integers(0, 200, 3)
        for n in range(UPLOAD_SECONDS * UPLOAD_FPS):
            shade = colour + np.array([2 * n % 50, n % 50, 0])
            picture = np.tile(shade.astype(np.uint8), (120, 160, 1))
            picture += rng.integers(0, 6, picture.shape, np.uint8)
            picture[40:80, 2 * n % 120 : 2 * n % 120 + 40] = 255 - colour
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                sink.mux(packet)
        for packet in stream.encode():
            sink.mux(packet)


def forget_uploads(directory: Path) -> None:
    """Delete the videos that a killed run left behind."""
    with Catalog.open_editor(directory) as catalog:
        jobs = JobQueue(catalog)
        for job in jobs.jobs(collections=[UPLOADS]):
            jobs.cancel(job.collection, job.video_id)
        for video in catalog.videos(collection=UPLOADS):
            jobs.delete(video.video_id, UPLOADS)


class Sampler:
    """Samples the resources of the server and its children once a second, until stop()."""

    def __init__(self, process_id: int) -> None:
        self.process_id = process_id
        self.taken: list[dict[str, float]] = []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, name="sampler")

    def run(self) -> None:
        started = time.monotonic()
        while not self.stopping.wait(1):
            children = sum(status_of(child)["rss"] for child in descendants(self.process_id))
            self.taken.append(
                {"seconds": time.monotonic() - started, **status_of(self.process_id), "children_rss": children}
            )


@contextlib.contextmanager
def beside(*threads: Uploader | Sampler) -> Iterator[None]:
    for one in threads:
        one.thread.start()
    try:
        yield
    finally:
        for one in threads:
            one.stopping.set()
        for one in threads:
            one.thread.join()
