"""Servers on this machine that downloads are tried against: the web's and FTP's."""

from __future__ import annotations

import hashlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from robustdml_ext.data.archives import Archive


class Site:
    """A web server on this machine: its files, how it misbehaves, and what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.cut_after: list[int] = []  # bytes of the body after which the next answers end
        self.asked: list[tuple[str, str | None]] = []
        self.address = ""

    def archive(
        self, name: str, content: bytes, into: str = ".", *, checksum: str | None = "right", size: int | None = None
    ) -> Archive:
        self.files[f"/{name}"] = content
        digest = f"md5:{hashlib.md5(content).hexdigest()}" if checksum == "right" else checksum
        return Archive(f"{self.address}/{name}", name, digest, size, into)


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[str]:
    """The address, host and port, where a server answers within the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def web_site() -> Iterator[Site]:
    """A site that is served within the block."""
    place = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            place.asked.append((self.path, asked))
            content = place.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and place.ranges else 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = start + place.cut_after.pop(0) if place.cut_after else len(content)
            self.wfile.write(content[start:end])

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as address:
        place.address = f"http://{address}"
        yield place


class FtpSession(socketserver.StreamRequestHandler):
    """Just enough of RFC 959 and 2428 for a client that fetches the one file there is."""

    content = b""

    def handle(self) -> None:
        self.answer("220 ready")
        data = socket.create_server(("127.0.0.1", 0))
        for line in self.rfile:
            command = line.decode().split()[0].upper()
            if command == "EPSV":
                self.answer(f"229 Entering (|||{data.getsockname()[1]}|)")
            elif command == "PASV":
                port = data.getsockname()[1]
                self.answer(f"227 Entering (127,0,0,1,{port // 256},{port % 256})")
            elif command == "RETR":
                self.answer(f"150 Opening ({len(self.content)} bytes)")
                with data.accept()[0] as connection:
                    connection.sendall(self.content)
                self.answer("226 Done")
            elif command == "QUIT":
                self.answer("221 Bye")
                break
            else:
                self.answer({"USER": "331 Password", "PASS": "230 In", "CWD": "250 There"}.get(command, "200 Fine"))
        data.close()

    def answer(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())
