"""A local HTTP server that fails like real servers, and a small dataset to serve."""

from __future__ import annotations

import http.server
import io
import threading
import zipfile

BODY = bytes(range(1, 251)) * 4000  # 1 MB


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; each request plays the next of ``faults``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/data.bin": BODY}
        self.faults: list[str] = []
        self.ranges = True
        self.requests: list[str | None] = []
        self.etag = '"one"'
        self.release = threading.Event()

    def url(self, path: str = "/data.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append(wanted)
        body = server.files.get(self.path)
        fault = server.faults.pop(0) if server.faults else ""
        if body is None or fault == "404":
            self.send_error(404)
            return
        if fault == "503":
            self.send_error(503)
            return
        if fault == "html":
            body = b"<!DOCTYPE html><html>quota exceeded</html>"
        if fault == "whole range refused":
            self.send_error(416)
            return
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", server.etag)
        page = body.startswith(b"<")
        self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
        if not page:
            self.send_header("Content-Disposition", 'attachment; filename="archive.zip"')
        self.end_headers()
        send = body[start:]
        if fault in ("cut", "stall"):
            send = send[: len(send) // 2]
        self.wfile.write(send)
        if fault == "stall":
            self.wfile.flush()
            server.release.wait(5)


TRAIN = "3 4 5\n0,1 0:1\n2 1:1\n4 3:0.5\n"
TEST = "1 4 5\n0 0:1\n"


def zip_of(**files: str) -> bytes:
    """A zip; in names ``__`` stands for / and ``_txt`` for .txt."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/").replace("_txt", ".txt"), text)
    return buffer.getvalue()
