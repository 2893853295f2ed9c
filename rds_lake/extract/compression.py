"""Compression: MySQL's compressed protocol under the driver, which does not know it.

Once the client is known to the server, everything goes in frames: three bytes of length, one of sequence number, three
of the length before compression (zero if the content is as it was), and the content, by zlib. On a slow line it saves
time; on a fast one it costs more than it saves, so it is asked for (`compress=true` in the source's address).
"""

import io
import socket
import zlib
from typing import Any

_HEAD = 7


class CompressedSocket:
    """A socket of which both directions are in frames; the rest is the socket's own.

    Args:
        sock: the connected socket.
        file: what the driver reads it by; it holds nothing that came already.
    """

    def __init__(self, sock: socket.socket, file: io.BufferedReader) -> None:
        self._sock = sock
        self.file = io.BufferedReader(_Inflated(file))

    def sendall(self, content: bytes) -> None:
        """Send one command: the server expects its number 0. Commands are short, so they stay as they are."""
        self._sock.sendall(len(content).to_bytes(3, "little") + b"\0" + bytes(3) + content)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a socket has
        return getattr(self._sock, name)


class _Inflated(io.RawIOBase):
    """What frames hold, as a plain stream of bytes."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        if not self._rest:
            head = self._file.read(_HEAD)
            size, whole = int.from_bytes(head[:3], "little"), int.from_bytes(head[4:], "little")
            content = self._file.read(size)
            if len(head) < _HEAD or len(content) < size:
                return 0  # the server has gone
            self._rest = memoryview(zlib.decompress(content, bufsize=whole) if whole else content)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
