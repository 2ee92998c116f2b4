"""Undoes the content encodings of HTTP: some servers compress bodies although `identity` was asked for.

A few kilobytes can stand for gigabytes. So each step yields small blocks, and the caller counts their bytes.
"""

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import brotli

from ingest.errors import SourceRefused, SourceUnavailable

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK_BYTES = 1 << 18  # about the largest decoded block: as much as one read of a download
MAX_ENCODING_COUNT = 3  # servers behind a proxy apply two; each one more multiplies the work that a byte can cause
MAX_RATIO = 200  # decoded bytes for each byte that came: media gains little, and deflate reaches 1032
FREE_BYTES = 256 << 20  # decoded bytes without that limit: silence and still pictures without compression gain much
_ZSTD_WINDOW_LOG = 23  # 8 MiB of memory: what RFC 9659 allows on the web


class _Decoder(Protocol):
    """Decodes one member of an encoded body, as the standard library's decompressors do."""

    def decompress(self, data: bytes, max_length: int) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _Inflater:
    """Decodes gzip or deflate. Browsers take deflate with zlib's header and without it, so servers send both."""

    def __init__(self, window_bits: int | None) -> None:
        """Take zlib's window bits; None: the first two bytes tell whether there is a header."""
        self._inflate = None if window_bits is None else zlib.decompressobj(window_bits)
        self._pending = b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self._pending += data
        if self._inflate is None:
            if len(self._pending) < 2:
                return b""
            has_header = self._pending[0] & 0x0F == 8 and int.from_bytes(self._pending[:2], "big") % 31 == 0
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        decoded = self._inflate.decompress(self._pending, max_length)
        self._pending = self._inflate.unconsumed_tail
        return decoded

    @property
    def needs_input(self) -> bool:
        return self._inflate is None or not self._pending

    @property
    def eof(self) -> bool:
        return self._inflate is not None and self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return b"" if self._inflate is None else self._inflate.unused_data


class _Unbrotli:
    """Decodes br."""

    unused_data = b""  # bytes after the end are an error of the library

    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()

    def decompress(self, data: bytes, max_length: int) -> bytes:
        decoded: bytes = self._decoder.process(data, output_buffer_limit=max_length)
        return decoded

    @property
    def needs_input(self) -> bool:
        return bool(self._decoder.can_accept_more_data())

    @property
    def eof(self) -> bool:
        return bool(self._decoder.is_finished())


def _make_zstd() -> _Decoder:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


_GZIP_BITS = 16 + zlib.MAX_WBITS
_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": lambda: _Inflater(_GZIP_BITS),
    "x-gzip": lambda: _Inflater(_GZIP_BITS),
    "deflate": lambda: _Inflater(None),
    "br": _Unbrotli,
    "zstd": _make_zstd,
}


def parse_encodings(header: str, name: str) -> list[str]:
    """Return the encodings of a body, in the order in which they were applied, from its Content-Encoding.

    Raises:
        SourceUnavailable: If one is unknown, or there are too many.
    """
    encodings = [part.strip().lower() for part in header.split(",")]
    encodings = [encoding for encoding in encodings if encoding not in ("", "identity")]
    for encoding in encodings:
        if encoding not in _DECODERS:
            known = ", ".join(sorted(_DECODERS))
            raise SourceUnavailable(name, f"the server sends the content encoding {encoding!r}", f"known are {known}")
    if len(encodings) > MAX_ENCODING_COUNT:
        raise SourceUnavailable(name, f"the server sends {len(encodings)} content encodings, one over the other")
    return encodings


def decode_blocks(blocks: Iterator[bytes], encodings: Sequence[str], name: str) -> Iterator[bytes]:
    """Yield the decoded bytes of a body, in blocks of about BLOCK_BYTES at most.

    Args:
        blocks: The body's bytes as they come.
        encodings: As parse_encodings() returns them.
    Raises:
        SourceUnavailable: If the encoded bytes are damaged or cut short.
        SourceRefused: If they grow over MAX_RATIO times.
    """
    if not encodings:
        yield from blocks
        return
    came_bytes = decoded_bytes = 0

    def count() -> Iterator[bytes]:
        nonlocal came_bytes
        for block in blocks:
            came_bytes += len(block)
            yield block

    decoded = count()
    for encoding in reversed(encodings):
        decoded = _decode(decoded, encoding, name)
    for block in decoded:
        decoded_bytes += len(block)
        if decoded_bytes > max(FREE_BYTES, MAX_RATIO * came_bytes):
            reason = f"its content encoding unpacks to over {MAX_RATIO} times the bytes sent"
            raise SourceRefused(name, reason, "download and unpack it yourself if you trust it")
        yield block


def _decode(blocks: Iterator[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """Undo one encoding. A body may have several members, one after the other, and zeros behind the last one."""
    decoder: _Decoder | None = None
    is_first = True
    try:
        for block in blocks:
            rest = block
            while True:
                if decoder is None:
                    rest = rest if is_first else rest.lstrip(b"\0")
                    if not rest:
                        break
                    decoder, is_first = _DECODERS[encoding](), False
                decoded = decoder.decompress(rest, BLOCK_BYTES)
                rest = b""
                if decoded:
                    yield decoded
                if decoder.eof:
                    rest, decoder = decoder.unused_data, None
                elif decoder.needs_input and len(decoded) < BLOCK_BYTES:  # after a full block, there may be more
                    break
    except (zlib.error, brotli.error, zstd.ZstdError) as e:
        raise SourceUnavailable(name, f"the server's {encoding} encoding cannot be decoded", "try later") from e
    if decoder is not None:
        raise SourceUnavailable(name, f"cut short within its {encoding} encoding", "try later")
