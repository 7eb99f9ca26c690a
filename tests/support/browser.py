"""A real browser for tests of pages: Chromium without a window, driven over pipes. Tests skip where there is none."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--mute-audio")
NARROW, WIDE = 400, 1200
FIND_OVERFLOW = """
(() => {
  const width = document.documentElement.clientWidth;
  const wide = [...document.querySelectorAll('main *')].filter(e => {
    for (let p = e.parentElement; p; p = p.parentElement)
      if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.right > width + 1 && getComputedStyle(e).position !== 'absolute';
  });
  return {width: document.documentElement.scrollWidth, wide: wide.slice(0, 5).map(e => e.outerHTML.slice(0, 120))};
})()
"""
OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"


@dataclass
class Page:
    """What a browser says about a page."""

    browser: Browser
    requests: list[str] = field(default_factory=list)
    """Addresses of everything that the page asked for, beside itself and its data URIs."""
    problems: list[str] = field(default_factory=list)
    """Errors and warnings of the console, and violations of the content security policy."""

    def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, which the policy of the page does not stop."""
        result = self.browser.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def resize(self, width: int, *, dark: bool = False) -> None:
        """Give the window a width, and the page a colour scheme."""
        self.browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.browser.call("Emulation.setEmulatedMedia", features=scheme)

    def save_screenshot(self, path: Path) -> None:
        """Save a picture of the whole page."""
        metrics = self.browser.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": metrics["width"], "height": min(metrics["height"], 12000), "scale": 1}
        picture = self.browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(picture["data"]))


class Browser:
    """Browser process and its protocol: JSON messages that end with a null byte."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self._process = process
        self._commands, self._answers = os.fdopen(commands, "wb", 0), os.fdopen(answers, "rb", 0)
        self._buffer, self._number, self._session = b"", 0, ""
        self._events: list[dict[str, Any]] = []

    def open_page(self, path: Path) -> Page:
        """Open a file in a new tab and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            self.call(f"{domain}.enable")
        self._events.clear()
        page = Page(self)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # keys reach only a tab with the focus
        page.resize(WIDE)
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._read_message()
        self.call("Runtime.evaluate", expression="0")
        for event in self._events:
            method, values = event.get("method"), event.get("params", {})
            if method == "Network.requestWillBeSent":
                url = values["request"]["url"]
                if not url.startswith("data:") and url != path.resolve().as_uri():
                    page.requests.append(url)
            elif method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                page.problems.append(json.dumps(values)[:300])
            elif method == "Audits.issueAdded" and values["issue"]["code"] != "QuirksModeIssue":
                page.problems.append(json.dumps(values["issue"])[:300])
        return page

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read_message()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def press_key(self, key: str) -> None:
        """Press and release a key, such as `ArrowUp`."""
        codes = {"ArrowUp": 38, "ArrowDown": 40, "Tab": 9}
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def _read_message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._answers.fileno(), 1 << 20)
            assert data, f"the browser ended with status {self._process.wait(10)}"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self._events.append(message)
        return message

    def close(self) -> None:
        """Close the browser."""
        self._commands.close()
        self._process.terminate()
        self._process.wait(20)
        self._answers.close()


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Start a browser; skip the test where none is installed.

    Args:
        profile: Folder for its files.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    read_command, write_command = os.pipe()
    read_answer, write_answer = os.pipe()

    # The protocol uses the descriptors 3 and 4. A shell moves ours there, which may have these numbers themselves.
    line = f'exec "$@" 3<&{read_command} 4>&{write_answer}'
    command = ["bash", "-c", line, "bash", program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    with (profile.parent / "browser.log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(read_command, write_answer), stdout=log, stderr=log)
    os.close(read_command)
    os.close(write_answer)
    browser = Browser(process, write_command, read_answer)
    try:
        yield browser
    finally:
        browser.close()
