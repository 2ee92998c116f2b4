"""A small RTMP server: it plays a list of FLV packets to each client, as media servers play a broadcast."""

import socket
import struct
import threading
from collections.abc import Callable

from support.waiting import HANG_SECONDS

HANDSHAKE_BYTES = 1536
CHUNK_BYTES = 65_536  # of a message, announced to the client
SET_CHUNK_SIZE, PICTURES, METADATA, COMMAND = 1, 9, 18, 20  # types of messages; 8 is sound


def amf(value: object) -> bytes:
    """Encode a value in AMF0."""
    if isinstance(value, float):
        return b"\0" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"\2" + struct.pack(">H", len(value)) + value.encode()
    if value is None:
        return b"\5"
    assert isinstance(value, dict)
    pairs = b"".join(struct.pack(">H", len(key)) + key.encode() + amf(item) for key, item in value.items())
    return b"\3" + pairs + b"\0\0\t"


def message(kind: int, body: bytes, *, milliseconds: int = 0, stream: int = 0) -> bytes:
    """Encode one message on chunk stream 4, with a full header."""
    head = struct.pack(">B3s3sB", 4, milliseconds.to_bytes(3, "big"), len(body).to_bytes(3, "big"), kind)
    chunks = [body[begin : begin + CHUNK_BYTES] for begin in range(0, len(body), CHUNK_BYTES)]
    return head + struct.pack("<I", stream) + b"\xc4".join(chunks)


def kind_of(encoded: bytes) -> int:
    return encoded[7]


def flv_messages(flv: bytes) -> list[tuple[int, bytes]]:
    """Return the tags of an FLV file: milliseconds and the message of each."""
    place, found = 13, []
    while place + 11 <= len(flv):
        kind, size = flv[place], int.from_bytes(flv[place + 1 : place + 4], "big")
        milliseconds = int.from_bytes(flv[place + 4 : place + 7], "big") | flv[place + 7] << 24
        body = flv[place + 11 : place + 11 + size]
        found.append((milliseconds, message(kind, body, milliseconds=milliseconds, stream=1)))
        place += 11 + size + 4
    return found


class RtmpServer:
    """Serves rtmp://127.0.0.1:PORT/live/cam. `play` gets the number of the connection, from 0, and its socket."""

    def __init__(self, play: Callable[[int, socket.socket], None]) -> None:
        self._play = play
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"rtmp://127.0.0.1:{self._listener.getsockname()[1]}/live/cam"
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        number = 0
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(number, client), daemon=True).start()
            number += 1

    def _serve(self, number: int, client: socket.socket) -> None:
        client.settimeout(HANG_SECONDS)
        with client:
            try:
                self._greet(client)
                self._play(number, client)
            except OSError:  # the client has left
                return

    def _greet(self, client: socket.socket) -> None:
        """Answer what FFmpeg asks before it plays: connect is its call 1, createStream its call 2."""
        received = client.recv(1 + HANDSHAKE_BYTES, socket.MSG_WAITALL)
        client.sendall(b"\3" + bytes(HANDSHAKE_BYTES) + received[1:])
        client.recv(HANDSHAKE_BYTES, socket.MSG_WAITALL)
        self._await(client, b"connect")
        done = {"code": "NetConnection.Connect.Success", "level": "status"}
        client.sendall(message(SET_CHUNK_SIZE, struct.pack(">I", CHUNK_BYTES)))
        client.sendall(message(COMMAND, amf("_result") + amf(1.0) + amf({}) + amf(done)))
        self._await(client, b"createStream")
        client.sendall(message(COMMAND, amf("_result") + amf(2.0) + amf(None) + amf(1.0)))
        self._await(client, b"play")
        status = {"level": "status", "code": "NetStream.Play.Start", "description": "playing"}
        client.sendall(message(COMMAND, amf("onStatus") + amf(0.0) + amf(None) + amf(status), stream=1))

    def _await(self, client: socket.socket, name: bytes) -> None:
        seen = b""
        while name not in seen:
            part = client.recv(65_536)
            if not part:
                raise ConnectionResetError
            seen += part
