"""Fingerprints, and a hub that does not answer."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from encoders import weights
from encoders.weights import (
    cached_weights,
    choose_device,
    choose_dtype,
    fingerprint_of,
    hub_answers,
    hub_offline,
    state_fingerprint,
)
from support.waiting import HANG_SECONDS


def test_parts_do_not_run_together() -> None:
    assert fingerprint_of("ab", "c") != fingerprint_of("a", "bc")
    assert fingerprint_of("ab") == fingerprint_of(b"ab")


def test_state_fingerprint_sees_names_shapes_types_and_values() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.0)}
    other = [
        {**state, "b": torch.tensor(2.0)},
        {**state, "a": state["a"].reshape(3, 2)},
        {**state, "b": torch.tensor(1.0, dtype=torch.bfloat16)},
        {"a": state["a"], "c": state["b"]},
    ]
    reordered = {"b": state["b"], "a": state["a"].t().contiguous().t()}  # the same values, laid out otherwise
    assert state_fingerprint(reordered) == state_fingerprint(state)
    assert len({state_fingerprint(one) for one in [state, *other]}) == 5


class Hub(BaseHTTPRequestHandler):
    """Serves one repository."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/models/org/there" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_the_hub_is_asked_for_the_repository() -> None:
    assert hub_answers("org/there")
    assert not hub_answers("org/missing")


@pytest.mark.usefixtures("hub")
def test_an_offline_setting_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_answers("org/there")


@pytest.mark.usefixtures("hub")
def test_offline_ends_with_the_block() -> None:
    with hub_offline():
        assert not hub_answers("org/there")
    assert hub_answers("org/there")


def test_a_silent_hub_costs_no_more_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        assert not hub_answers("org/there", timeout_seconds=0.2)
        assert time.monotonic() - started < HANG_SECONDS


def test_an_endpoint_that_is_no_url_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "nonsense")
    assert not hub_answers("org/there")


def test_finds_weights_in_the_local_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert cached_weights("org/there") is None
    repository = tmp_path / "models--org--there"
    snapshot = repository / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    (snapshot / "open_clip_pytorch_model.bin").write_bytes(b"")
    assert cached_weights("org/there") == snapshot / "open_clip_pytorch_model.bin"


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "mps"])
def test_refuses_a_device_that_is_not_here(device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has mps")
    with pytest.raises(ValueError, match=device):
        choose_device(device)


def test_float32_where_bfloat16_is_not_native_and_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == "cpu"
    monkeypatch.setattr(weights, "has_fast_avx512_bf16", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert choose_dtype("cpu") is torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_dtype("cpu") is torch.bfloat16
    for capability, dtype in (((7, 5), torch.float32), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert choose_dtype("cuda") is dtype


@pytest.mark.parametrize(
    ("is_supported", "info", "dtype"),
    [
        (True, "vendor_id\t: AuthenticAMD\n", torch.bfloat16),
        (True, "vendor_id\t: GenuineIntel\n", torch.float32),  # its instruction is there, and no faster
        (True, None, torch.float32),  # another system, which does not say
        (False, "vendor_id\t: AuthenticAMD\n", torch.float32),  # before Zen 4
    ],
)
def test_bfloat16_where_avx512_alone_makes_it_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_supported: bool, info: str | None, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: is_supported)
    monkeypatch.setattr(weights, "CPU_INFO", tmp_path / "cpuinfo")
    if info is not None:
        (tmp_path / "cpuinfo").write_text(info)
    assert choose_dtype("cpu") is dtype
