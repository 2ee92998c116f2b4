"""The processes of benchmarks/serving.py: the server, the load on it, and the references to compare with."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kinodex.v1 import moment_pb2, search_service_pb2, search_service_pb2_grpc

GHZ = "github.com/bojand/ghz/cmd/ghz@v0.121.0"
START_SECONDS = 900.0  # longest start; a library without indexes takes minutes
CALL_SECONDS = 180.0  # longest call; a new text may take a second of CPU, and wait for all others
FAISS_COUNT = 10  # rows asked of a bare index: as many as in our answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The result of a load of some seconds."""

    name: str
    clients: int
    qps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    codes: dict[str, int] = field(default_factory=dict)
    cpu_ms: float | None = None  # CPU milliseconds of the server for a call; other processes hardly change it


# ------------------------------------------------------------------ resources of processes
def cpu_seconds(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system time


def status_of(process_id: int) -> dict[str, int]:
    """Return resident bytes, threads and open files of a process; zeros if it has just ended."""
    try:
        text = Path(f"/proc/{process_id}/status").read_text()
        files = len(os.listdir(f"/proc/{process_id}/fd"))
    except OSError:
        return {"rss": 0, "threads": 0, "files": 0}
    found = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", text, re.MULTILINE))
    return {"rss": int(found.get("VmRSS", 0)) * 1024, "threads": int(found.get("Threads", 0)), "files": files}


# ------------------------------------------------------------------ the server
@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running server that is ready."""

    address: str
    process_id: int
    start_seconds: float


@contextlib.contextmanager
def served(directory: Path, log: Path) -> Iterator[Served]:
    """Run `kinodex serve` on a free port until the block ends. It must end with exit status 0."""
    program = Path(sys.executable).with_name("kinodex")
    command = [str(program), "serve", "--data", str(directory), "--listen", "127.0.0.1:0"]
    started = time.monotonic()
    with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            if not line.startswith("listening on "):
                raise RuntimeError(f"the server did not start: see {log}")
            address = line.removeprefix("listening on ").strip()
            wait_until_serving(address, process)
            yield Served(address=address, process_id=process.pid, start_seconds=time.monotonic() - started)
        finally:
            process.terminate()
            status = process.wait(CALL_SECONDS)
    if status:
        raise RuntimeError(f"the server ended with status {status}: see {log}")


def wait_until_serving(address: str, process: "subprocess.Popen[bytes]") -> None:
    request = health_pb2.HealthCheckRequest(service="kinodex.v1.SearchService")
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        deadline = time.monotonic() + START_SECONDS
        while stub.Check(request, timeout=CALL_SECONDS).status != health_pb2.HealthCheckResponse.SERVING:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server does not get ready")
            time.sleep(0.05)


def ask_once(address: str, method: str, text: str) -> bytes:
    """Return the answer to a question as bytes."""
    with grpc.insecure_channel(address) as channel:
        return bytes(caller(channel, method)(request_of(method, text), timeout=CALL_SECONDS).SerializeToString())


def caller(channel: Any, method: str) -> Any:
    return getattr(search_service_pb2_grpc.SearchServiceStub(channel), method)


def request_of(method: str, text: str, **fields: Any) -> Any:
    kind = getattr(search_service_pb2, f"{method}Request")
    return kind(query=moment_pb2.Query(text=text), **fields)


# ------------------------------------------------------------------ ghz
class Ghz:
    """Makes load with ghz, which is built once into the cache."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache
        self.program = cache / "bin" / "ghz"
        if not self.program.exists():
            self.program.parent.mkdir(parents=True, exist_ok=True)
            environment = os.environ | {"GOBIN": str(self.program.parent)}
            subprocess.run(["go", "install", GHZ], env=environment, check=True, cwd=cache)
        self.protoset = cache / "search.protoset"
        self.protoset.write_bytes(protoset())

    def load(
        self,
        name: str,
        address: str,
        process_id: int,
        method: str,
        texts: Sequence[str],
        *,
        clients: int,
        seconds: float,
    ) -> Load:
        """Ask the texts in turn, from `clients` callers on 4 connections, as a gateway would."""
        data, out = self.folder / "requests.json", self.folder / "ghz.json"
        data.write_text(json.dumps([{"query": {"text": text}} for text in texts]))
        before = cpu_seconds(process_id)
        command = [
            str(self.program), "--insecure", "--protoset", str(self.protoset), "--data-file", str(data),
            "--call", f"kinodex.v1.SearchService.{method}", "--concurrency", str(clients),
            "--connections", str(min(4, clients)), "--timeout", f"{CALL_SECONDS:g}s", "--format", "json",
            "--output", str(out), "--disable-template-functions", "--disable-template-data",
            *(["--duration", f"{seconds:g}s", "--duration-stop", "wait"] if seconds else ["--total", str(len(texts))]),
            address,
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        used = cpu_seconds(process_id) - before
        found = json.loads(out.read_text())
        latency = {one["percentage"]: one["latency"] / 1e6 for one in found["latencyDistribution"] or []}
        return Load(
            name=name, clients=clients, qps=found["rps"], p50_ms=latency.get(50, np.nan),
            p95_ms=latency.get(95, np.nan), p99_ms=latency.get(99, np.nan), codes=found["statusCodeDistribution"],
            cpu_ms=1000 * used / max(found["count"], 1),
        )  # fmt: skip


def protoset() -> bytes:
    """Return the descriptors of the API in the form that ghz reads."""
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file: Any) -> None:
        if file.name not in found:
            for other in file.dependencies:
                add(other)
            found[file.name] = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(found[file.name])

    add(search_service_pb2.DESCRIPTOR)
    return descriptor_pb2.FileDescriptorSet(file=found.values()).SerializeToString()


# ------------------------------------------------------------------ the references
@contextlib.contextmanager
def in_process(work: Callable[..., None], *given: Any) -> Iterator[tuple[Any, int]]:
    """Run work(pipe, *given) in a process of its own. Yield our end of the pipe and the id of the process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, *given), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield ours, process.pid
    finally:
        process.terminate()
        process.join()


def echo(pipe: Any, answers: dict[str, bytes]) -> None:
    """Answer every question with the same message: the limit of gRPC for Python."""

    class Echo(search_service_pb2_grpc.SearchServiceServicer):
        moments = search_service_pb2.SearchMomentsResponse.FromString(answers["SearchMoments"])
        videos = search_service_pb2.SearchVideosResponse.FromString(answers["SearchVideos"])

        async def SearchMoments(self, request: Any, context: Any) -> Any:
            return self.moments

        async def SearchVideos(self, request: Any, context: Any) -> Any:
            return self.videos

    async def run() -> None:
        server = grpc.aio.server()
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(Echo(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        pipe.send(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    asyncio.run(run())


def bare_faiss(pipe: Any, directory: Path, known: str, texts: Sequence[str], clients: int, seconds: float) -> None:
    """Ask the server's index file directly: first with a known vector, then with new texts."""
    import faiss

    from encoders.batching import TextVectors
    from encoders.clip import load_visual
    from encoders.config import VisualConfig
    from serve.index.shard import read_shard
    from serve.search.visual import encode_text

    faiss.omp_set_num_threads(1)
    names = json.loads((directory / "index" / "segments.json").read_text())["shards"]
    shards = [read_shard(directory / "index" / name) for name in names]
    encoder, _ = load_visual(VisualConfig(model="mini"))
    assert encoder is not None
    vectors = TextVectors(encoder.encode_texts)

    def encoded(text: str) -> Any:
        return encode_text(vectors.encode, encoder.calibration.templates, text)[None]

    def search(vector: Any) -> None:
        for shard in shards:
            shard.search(vector, FAISS_COUNT, None)

    vector = encoded(known)
    told, lock = iter(texts), threading.Lock()

    def ask_new() -> None:
        with lock:
            text = next(told)
        search(encoded(text))

    pipe.send(
        [
            in_threads("bare FAISS, vector known", lambda: search(vector), clients, seconds),
            in_threads("bare FAISS, encoding new texts", ask_new, clients, seconds),
        ]
    )


def in_threads(name: str, ask: Callable[[], None], clients: int, seconds: float) -> Load:
    started, used = time.monotonic(), time.process_time()

    def client(_: int) -> list[float]:
        taken = []
        while (before := time.monotonic()) < started + seconds:
            ask()
            taken.append(time.monotonic() - before)
        return taken

    with ThreadPoolExecutor(clients) as pool:
        taken = [one for some in pool.map(client, range(clients)) for one in some]
    seconds, used = time.monotonic() - started, time.process_time() - used
    return load_of(name, clients, taken, {"OK": len(taken)}, seconds, 1000 * used / max(len(taken), 1))


def load_of(
    name: str, clients: int, taken: Sequence[float], codes: dict[str, int], seconds: float, cpu_ms: float | None = None
) -> Load:
    p50, p95, p99 = np.percentile(np.asarray(taken or [np.nan]) * 1000, [50, 95, 99]).tolist()
    return Load(
        name=name, clients=clients, qps=len(taken) / seconds, p50_ms=p50, p95_ms=p95, p99_ms=p99, codes=codes,
        cpu_ms=cpu_ms,
    )  # fmt: skip
