"""A small client of Chromium's DevTools protocol, over the two pipes of --remote-debugging-pipe.

It needs no package. Messages are JSON objects, each followed by a zero byte; Chromium reads them
from file descriptor 3 and writes its own to 4.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Tab", "find_chromium", "open_chromium"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60.0  # Maximum time for one answer.


def find_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome; None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """A tab of the browser.

    Attributes:
        events: the events that Chromium has sent so far, as (method, params).
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._received, self._last, self._session = b"", 0, ""
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write(json.dumps(message))
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, path: Path, *, width: int, height: int = 900) -> None:
        """Open a file at a width in CSS pixels and wait until it is loaded."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            self._read()

    def colours(self, scheme: str) -> None:
        """Prefer the colours "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, which may be a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"the page raised {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "scale": 1, "width": size["width"], "height": size["height"]}
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _write(self, text: str) -> None:
        data = text.encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]

    def _read(self) -> dict[str, Any]:
        """Return the next message; events are kept as well."""
        end = time.monotonic() + SECONDS
        while b"\0" not in self._received:
            if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium did not answer within {SECONDS:.0f} s.")
            part = os.read(self._from, 2**20)
            if not part:
                raise RuntimeError("Chromium has ended.")
            self._received += part
        text, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append((message["method"], message.get("params", {})))
        return message


@contextmanager
def open_chromium(program: str, profile: Path) -> Iterator[Tab]:
    """Start Chromium without a window, and end it afterwards.

    Arguments:
        profile: an empty folder for its files.
    """
    (read_3, to_browser), (from_browser, write_4) = os.pipe(), os.pipe()
    # Copies above 9, so that neither end is 3 or 4 when these numbers are assigned.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (read_3, write_4)]

    def assign() -> None:
        for end, number in zip(ends, (3, 4), strict=True):
            os.dup2(end, number)

    process = subprocess.Popen(
        [
            program,
            "--headless",
            "--no-sandbox",  # Containers often run as root, which the sandbox refuses.
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
            "about:blank",
        ],
        preexec_fn=assign,
        close_fds=False,  # Only 3 and 4 are inherited: all other descriptors end with exec.
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for end in (read_3, write_4, *ends):
            os.close(end)
        yield Tab(to_browser, from_browser)
    finally:
        process.terminate()
        process.wait(20)
        os.close(to_browser)
        os.close(from_browser)
