"""Judge service that records the samples it is sent and scores each by its number, to show what a judge is shown.

Imported by drivers; it needs the core only.

Example:
    with RecordingJudge() as judge:
        run_trainer(judge.url)
    print(judge.samples[0]["prompt"])
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flex_judge.judges.judgments import Status
from flex_judge.reward.types import Reward


class RecordingJudge:
    """Service on a local port. The first sample gets the reward 1, the next 2, and so on."""

    def __init__(self) -> None:
        self.samples: list[dict[str, Any]] = []
        """The samples of all requests, as JSON."""
        judge, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["samples"]
                with lock:
                    first = len(judge.samples) + 1
                    judge.samples += rows
                rewards = [Reward(float(n), Status.OK, judgments=1).to_json() for n in range(first, first + len(rows))]
                self._respond({"rewards": rewards})

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._respond({"digest": self.path.rpartition("/")[2]})

            def _respond(self, value: dict[str, Any]) -> None:
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> RecordingJudge:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
