"""The client's end of a TCP connection, for protocols that are written by hand: native.py, h2raw.py."""

import socket
import struct


class Cut(OSError):
    """The connection ended within a frame."""


class Peer:
    def __init__(self, daemon):
        self.sock = daemon.connect()
        self.data = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Vanishes: a RST instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def read(self, n):
        """n bytes, or fewer at the end of the connection."""
        while len(self.data) < n:
            try:
                piece = self.sock.recv(1 << 16)
            except ConnectionResetError:
                piece = b""
            if not piece:
                break
            self.data += piece
        out, self.data = self.data[:n], self.data[n:]
        return out

    def read_frame(self, header_bytes, length_of):
        """(header, payload), whose length `length_of` finds in the header; None at the end of the connection."""
        header = self.read(header_bytes)
        if not header:
            return None
        length = length_of(header) if len(header) == header_bytes else 0
        payload = self.read(length)
        if len(header) < header_bytes or len(payload) < length:
            raise Cut("the connection ended within a frame")
        return header, payload
