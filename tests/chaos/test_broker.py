"""The broker of the tests and of `make kafka`: it answers, stops in order, and ends with its starter."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import broker as broker_module
from support.broker import POM, Broker, BrokerMissing, fetch, free_ports, jars
from support.kafka_fixtures import new_broker
from support.waiting import HANG_SECONDS, wait_until

pytestmark = pytest.mark.kafka
PROGRAM = [sys.executable, str(POM.with_name("broker.py"))]


@pytest.fixture
def program(tmp_path: Path, own_jars: None) -> Iterator[subprocess.Popen[str]]:
    """A running `make kafka`, whose temporary files go below tmp_path."""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(PROGRAM, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as running:
        yield running
        running.kill()


@pytest.fixture
def own_jars() -> None:
    """Skip or fail, as all tests of Kafka, where a broker cannot be made."""
    new_broker(Path(tempfile.gettempdir()))


def java_processes(folder: Path) -> list[int]:
    """Return the Java processes whose command names a file below `folder`."""
    pids = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command and b"java" in command:
            pids.append(int(pid))
    return pids


def test_the_program_prints_its_address_and_ctrl_c_leaves_nothing(
    program: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert program.stdout is not None
    host, _, port = program.stdout.readline().strip().partition(":")
    assert (host, int(port) in broker_module.PORTS) == ("127.0.0.1", True)
    assert java_processes(tmp_path)
    program.send_signal(signal.SIGINT)
    assert program.wait(HANG_SECONDS) == 0
    assert java_processes(tmp_path) == []
    assert list(tmp_path.glob("kinodex-kafka-*")) == []


def test_killing_its_starter_ends_it_and_empties_its_folder(program: subprocess.Popen[str], tmp_path: Path) -> None:
    assert program.stdout is not None
    assert program.stdout.readline()
    program.kill()
    program.wait()
    wait_until(lambda: not java_processes(tmp_path))
    wait_until(lambda: not list(tmp_path.glob("kinodex-kafka-*")))


def test_a_broker_that_cannot_start_gives_the_reason(tmp_path: Path, own_jars: None) -> None:
    broken = Broker(tmp_path / "broken", properties={"num.io.threads": "none"})
    with pytest.raises(RuntimeError, match=r"num\.io\.threads"):
        broken.start()
    assert broken.pid is None


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, own_jars: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pom = tmp_path / "pom.xml"
    pom.write_text(POM.read_text().replace("<artifactId>kafka_2.13<", "<artifactId>kafka_0.0<"))
    monkeypatch.setattr(broker_module, "POM", pom)
    with pytest.raises(BrokerMissing, match=r"Maven cannot fetch Kafka: .*kafka_0\.0"):
        fetch(tmp_path / "jars")
    assert list(tmp_path.iterdir()) == [pom]


def test_without_java_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BrokerMissing, match="Kafka needs java, and there is none here: install"):
        jars()


def test_ports_are_none_that_outgoing_connections_are_given() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < lowest
