"""Content encodings of HTTP are undone exactly, in small blocks, and never grow without bound."""

import gzip
import sys
import zlib
from collections.abc import Iterator

import brotli
import numpy as np
import pytest

from ingest.errors import SourceRefused, SourceUnavailable
from ingest.source import content_encoding
from ingest.source.content_encoding import BLOCK_BYTES, decode_blocks, parse_encodings

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NOISE = np.random.default_rng(0).bytes(300_000)
CONTENT = NOISE + bytes(5 * BLOCK_BYTES) + NOISE[:1000]


def deflate_raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def split(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def decode(data: bytes, header: str, size: int = 10_007) -> bytes:
    return b"".join(decode_blocks(split(data, size), parse_encodings(header, "u"), "u"))


BODIES = {
    "gzip": ("gzip", gzip.compress(CONTENT)),
    "x-gzip in capitals": ("X-GZip", gzip.compress(CONTENT)),
    "gzip members": ("gzip", gzip.compress(CONTENT[:70]) + gzip.compress(CONTENT[70:]) + bytes(30)),
    "deflate": ("deflate", zlib.compress(CONTENT)),
    "deflate without header": ("deflate", deflate_raw(CONTENT)),
    "br": ("br", brotli.compress(CONTENT, quality=3)),
    "zstd": ("zstd", zstd.compress(CONTENT)),
    "zstd frames": ("zstd", zstd.compress(CONTENT[:70]) + zstd.compress(CONTENT[70:])),
    "three": ("br,gzip , zstd", zstd.compress(gzip.compress(brotli.compress(CONTENT, quality=3)))),
    "none": ("identity", CONTENT),
}


@pytest.mark.parametrize("size", [997, 1 << 20])
@pytest.mark.parametrize("case", BODIES)
def test_decodes_every_encoding(case: str, size: int) -> None:
    header, body = BODIES[case]
    assert decode(body, header, size) == CONTENT


@pytest.mark.parametrize("case", sorted(BODIES.keys() - {"none"}))
def test_reports_bodies_that_are_cut_short_or_damaged(case: str) -> None:
    header, body = BODIES[case]
    if case not in ("gzip members", "zstd frames"):  # between two members, nothing tells that one is missing
        for end in (1, 2, 11, len(body) // 2, len(body) - 1):
            with pytest.raises(SourceUnavailable, match="cut short within"):
                decode(body[:end], header)
    for broken in (b"\xff\xfe" + body, b"<html>" * 1000, body + b"<html>" * 1000):
        with pytest.raises(SourceUnavailable, match="cannot be decoded"):
            decode(broken, header)
    assert decode(b"", header) == b""


@pytest.mark.parametrize("split_at", [1, 2, 3])
@pytest.mark.parametrize("case", ["deflate", "deflate without header"])
def test_tells_the_two_kinds_of_deflate_however_they_arrive(case: str, split_at: int) -> None:
    _, body = BODIES[case]
    assert b"".join(decode_blocks(iter([body[:split_at], body[split_at:]]), ["deflate"], "u")) == CONTENT


def test_names_an_unknown_encoding() -> None:
    with pytest.raises(SourceUnavailable, match=r"'compress'.*gzip"):
        parse_encodings("gzip, compress", "u")
    with pytest.raises(SourceUnavailable, match="4 content encodings"):
        parse_encodings("gzip, gzip, br, gzip", "u")


@pytest.mark.slow
@pytest.mark.parametrize("header", ["gzip", "deflate", "br", "zstd", "gzip,gzip"])
def test_a_bomb_yields_small_blocks_and_is_refused(header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_encoding, "FREE_BYTES", 8 * BLOCK_BYTES)
    zeros = bytes(64 * BLOCK_BYTES)
    bombs = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd.compress}
    bomb = bombs[header.rpartition(",")[2]](zeros)
    if header == "gzip,gzip":
        bomb = gzip.compress(bomb)
    sizes = []

    def consume() -> None:
        sizes.extend(len(block) for block in decode_blocks(iter([bomb]), header.split(","), "u"))

    with pytest.raises(SourceRefused, match="200 times"):
        consume()
    assert max(sizes) <= 2 * BLOCK_BYTES
    assert sum(sizes) <= max(content_encoding.FREE_BYTES, 200 * len(bomb))


def test_refuses_a_zstd_window_that_needs_much_memory() -> None:
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 24})
    body = packer.compress(CONTENT) + packer.flush()
    with pytest.raises(SourceUnavailable):
        decode(body, "zstd")
