"""A real Apache Kafka broker for tests and development: one node, on loopback, in its own folder.

Run as a program (`make kafka`), it prints its address on standard output and serves until Ctrl-C. It needs Java 17 or
newer. At the first start, Maven fetches the jars that pom.xml names into ~/.cache/kinodex.
"""

import base64
import fcntl
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
FETCH_SECONDS = 300  # bound of fetching 43 MB, which takes ten seconds with a good connection
START_SECONDS = 300  # bound of a start, which takes four seconds on two idle cores
STOP_SECONDS = 120  # bound of an orderly stop, then the process is killed

# Below the ports that the kernel gives to outgoing connections. Otherwise a client that retries while the broker is
# down could get the broker's port as its own, connect to itself, and keep the port occupied.
PORTS = range(15000, 32000)

JAVA = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # only C1: the broker lives for minutes
QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"

# Kills the broker and removes its folder when the process that started it ends, also by kill -9. PR_SET_PDEATHSIG would
# fire when the *thread* that started the broker ends.
KEEPER = """
import os, shutil, signal, sys, time
starter, broker, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
while os.getppid() == starter:
    time.sleep(0.2)
try:
    os.kill(broker, signal.SIGKILL)
except ProcessLookupError:
    pass
time.sleep(0.5)
shutil.rmtree(folder, ignore_errors=True)
"""

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",  # a misspelt topic is an error
    # One node has no replicas.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Fewer files and threads than in production.
    "offsets.topic.num.partitions": "3",
    "log.index.size.max.bytes": "1048576",
    "num.network.threads": "2",
    "num.io.threads": "4",
    # The defaults wait for hundreds of consumers; tests have two.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "initial.broker.registration.timeout.ms": "300000",
    # A killed broker may register again when its old session is over, by default after 9 seconds. The session ends, and
    # with it all work for a while, if a busy disk or core delays the heartbeats for as long.
    "broker.session.timeout.ms": "6000",
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.backoff.ms": "500",
    "log.segment.delete.delay.ms": "1000",
}


class BrokerMissing(Exception):
    """Java or Maven is missing, or the jars cannot be fetched."""


class Broker:
    """A broker of one node. When killed and started again, it keeps its address and its records.

    Args:
        folder: For its data and its log; used by this broker only.
        listeners: Listeners beside plain text, name -> protocol, such as {"SECURE": "SASL_SSL"}.
        properties: Further lines of its server.properties.
        format_options: Further options of Kafka's format command, such as the users of SCRAM.
    Raises:
        BrokerMissing: If Java, Maven or the jars are missing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        listeners: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
    ) -> None:
        self.folder, self._format_options = folder, tuple(format_options)
        self._classpath = f"{jars()}{os.sep}*"
        self._protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **(listeners or {})}
        self._ports = dict(zip(self._protocols, free_ports(len(self._protocols)), strict=True))
        self._properties = {**PROPERTIES, **self._addresses(), **(properties or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def servers(self) -> str:
        """The bootstrap address, plain text."""
        return self.address("PLAINTEXT")

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id; None if it does not run."""
        return self._process.pid if self._process else None

    def address(self, listener: str) -> str:
        """Return the bootstrap address of one listener."""
        return f"127.0.0.1:{self._ports[listener]}"

    def start(self) -> None:
        """Start it, with the records of an earlier start, and wait until it answers."""
        if self._process is not None:
            raise RuntimeError("the broker runs")
        settings = self.folder / "server.properties"
        if not settings.exists():
            self._format(settings)
        with (self.folder / "broker.log").open("ab") as log:
            command = [*JAVA, QUIET, "-cp", self._classpath, "kafka.Kafka", str(settings)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        keep = [sys.executable, "-SEc", KEEPER, str(os.getpid()), str(self._process.pid), str(self.folder)]
        self._keeper = subprocess.Popen(keep, start_new_session=True)
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Stop it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it without a warning, as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it in order and start it again: same address, same records."""
        self.stop()
        self.start()

    def log(self) -> str:
        """Return its log so far."""
        with suppress(FileNotFoundError):
            return (self.folder / "broker.log").read_text(errors="replace")
        return ""

    def _addresses(self) -> dict[str, str]:
        at = {name: f"{name}://{self.address(name)}" for name in self._ports}
        return {
            "listeners": ",".join(at.values()),
            "advertised.listeners": ",".join(each for name, each in at.items() if name != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in self._protocols.items()),
            "controller.quorum.voters": f"1@{self.address('CONTROLLER')}",
            "log.dirs": str(self.folder / "data"),
        }

    def _format(self, settings: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = settings.with_suffix(".draft")
        draft.write_text("".join(f"{name}={value}\n" for name, value in self._properties.items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [*JAVA, QUIET, "-cp", self._classpath, "kafka.tools.StorageTool", "format", "--config", str(draft)]
        done = subprocess.run(
            [*command, f"--cluster-id={cluster}", *self._format_options],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Kafka cannot format its storage:\n{done.stdout}{done.stderr}")
        draft.rename(settings)

    def _wait_until_it_answers(self) -> None:
        """Wait for its listener, which Kafka opens last, when it is ready for requests."""
        assert self._process is not None
        end = time.monotonic() + START_SECONDS
        while self.is_running and time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._ports["PLAINTEXT"]), timeout=1):
                return
            time.sleep(0.05)
        code = self._process.poll()
        self.kill()
        said = "\n".join(self.log().splitlines()[-20:])
        raise RuntimeError(
            f"Kafka does not answer after {START_SECONDS} seconds"
            if code is None
            else f"Kafka ended with {code}:\n{said}"
        )

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.kill()
            keeper.wait()


# ------------------------------------------------------------------ the jars
def jars() -> Path:
    """Return the folder of Kafka's jars; fetch them at the first call.

    Raises:
        BrokerMissing: If Java, Maven or the network is missing.
    """
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            raise BrokerMissing(f"Kafka needs {tool}, and there is none here: install a JDK 17 or newer, and Maven")
    pom = POM.read_text(encoding="utf-8")
    version = re.search(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([\d.]+)<", pom)
    assert version is not None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kinodex"
    folder = cache / f"kafka-{version[1]}-{hashlib.sha256(pom.encode()).hexdigest()[:8]}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with lock_file(cache / "kafka.lock"):
            if not folder.exists():
                fetch(folder)
    return folder


def fetch(folder: Path) -> None:
    """Fetch the jars. The folder appears only when it is complete, also if a fetch is killed."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as draft:
        command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
        try:
            done = subprocess.run(
                [*command, f"-DoutputDirectory={draft}/jars"],
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerMissing(f"Maven did not fetch Kafka within {FETCH_SECONDS} seconds") from error
        if done.returncode:
            said = next((line for line in done.stdout.splitlines() if "ERROR" in line), "no word why")
            raise BrokerMissing(f"Maven cannot fetch Kafka: {said}")
        os.rename(f"{draft}/jars", folder)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_ports(count: int) -> list[int]:
    """Return free ports of loopback, outside the range of outgoing connections."""
    found: dict[int, socket.socket] = {}
    while len(found) < count:
        port, probe = random.SystemRandom().choice(PORTS), socket.socket()
        try:
            probe.bind(("127.0.0.1", port))
            found[port] = probe
        except OSError:
            probe.close()
    for probe in found.values():
        probe.close()
    return list(found)


# ------------------------------------------------------------------ the program
def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="kinodex-kafka-"))
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job of a shell ignores SIGINT
        signal.signal(number, signal.default_int_handler)
    try:
        broker = Broker(folder)
        try:
            broker.start()
            print(broker.servers, flush=True)
            print(f"Apache Kafka runs; Ctrl-C ends it. KAFKA_BOOTSTRAP_SERVERS={broker.servers}", file=sys.stderr)
            while broker.is_running:
                time.sleep(0.2)
        finally:
            broker.stop()
        print(f"Kafka ended by itself:\n{broker.log()}", file=sys.stderr)
    except KeyboardInterrupt:
        return 0
    except (BrokerMissing, RuntimeError) as error:
        print(f"kafka: error: {error}", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
