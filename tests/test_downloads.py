"""python -m pytest tests/test_downloads.py -p no:nbval -o addopts=""

A package index on this machine whose line breaks in the middle of a file, or that never ends it.
"""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers import sources
from tests.test_sources import NEWS, files_below, home, start_child

__all__ = ["home"]  # a fixture
MEMBER = "news/all"


class Line(BaseHTTPRequestHandler):
    """Serves an index of one file; `server.way` says how much of it comes, and what then."""

    def do_GET(self):
        """The page of the index, or the file, or the part of it that is asked for."""
        file = self.server.file
        if not self.path.endswith(file.name):
            link = f'<a href="/{file.name}">{file.name}</a>'.encode()
            return self.answer(200, link, len(link), "text/html")
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        rest = file.read_bytes()[start:]
        self.server.asked.append(start)
        whole = self.server.way == "whole" or start > 0
        self.answer(206 if start else 200, rest if whole else rest[: len(rest) // 2], len(rest))
        if self.server.way == "waits" and not start:
            self.server.half.set()
            self.server.over.wait()

    def answer(self, status, content, length, kind="application/zip"):
        """So many bytes are promised; these come."""
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": length, "Accept-Ranges": "bytes"}
        for name, value in (headers | {"ETag": '"1"'}).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *_):
        """Nothing is logged."""


@pytest.fixture
def line(home, monkeypatch):
    """The server; pip knows no other."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Line)
    server.file = home / "archives" / sources.LOCK["news"]["archive"]["file"]
    server.way, server.asked = "whole", []
    server.half, server.over = threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("COURSE_OFFLINE")
    address = f"http://127.0.0.1:{server.server_address[1]}/simple"
    settings = {"PIP_INDEX_URL": address, "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "127.0.0.1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def test_a_whole_line_brings_the_file(line, home):
    assert sources.path(MEMBER).read_bytes() == NEWS
    assert line.asked == [0]


def test_after_a_broken_line_nothing_is_kept_and_the_next_call_brings_it(line, home, monkeypatch):
    """A pip that can (25.1 or newer) asks for the rest itself, so here it may not."""
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    line.way = "cut"
    with pytest.raises(sources.NotHad, match=r"news could not be had \(.*cut short"):
        sources.path(MEMBER)
    assert files_below(home / "cache") == files_below(home / "temp") == []
    line.way = "whole"
    assert sources.path(MEMBER).read_bytes() == NEWS


def test_after_a_process_was_killed_in_mid_download_the_next_call_brings_it(
    line, home, monkeypatch
):
    line.way = "waits"
    monkeypatch.setenv("TMPDIR", str(home / "temp"))
    child = start_child(home, f"sources.path({MEMBER!r})")
    assert line.half.wait(60)
    child.kill()
    child.communicate()
    assert files_below(home / "cache") == []
    line.way = "whole"
    assert sources.path(MEMBER).read_bytes() == NEWS
