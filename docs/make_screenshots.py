"""Screenshots of a report in headless Chromium: desktop and phone widths, light and dark.

    python docs/make_screenshots.py outputs/llava_kl/report.html docs/images
    python docs/make_screenshots.py --height 0 outputs/llava_kl/report.html whole_pages

Writes `report-desktop-light.png`, `report-desktop-dark.png`, `report-phone-light.png`, `report-phone-dark.png`, and
fails where a page is wider than its window. Needs `chromium` (or CHROMIUM=path) and Pillow.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image


SIZES = {"desktop": (1280, 1500), "phone": (390, 1100)}
LARGEST = 250_000  # bytes of a file
PHONE_SCALE = 2
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_chromium() -> str | None:
    """The browser, from the environment or the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A page in headless Chromium, by its DevTools protocol over a pipe (`--remote-debugging-pipe`)."""

    def __init__(self, program: str):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_child, from_parent = os.pipe()
        to_parent, from_child = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]
        command = [program, *options, "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}"]

        def as_3_and_4() -> None:
            # Away from 3 and 4 first, which either of them may be
            ends = os.dup(to_child), os.dup(from_child)
            spare = [os.dup(end) for end in ends]
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        self._process = subprocess.Popen(
            command, preexec_fn=as_3_and_4, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_child)
        os.close(from_child)
        self._write, self._read = os.fdopen(from_parent, "wb", 0), os.fdopen(to_parent, "rb")
        self._id, self._session, self._buffer = 0, None, b""
        self.requests: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self("Browser.close")
        self._process.wait(timeout=20)
        self._write.close()
        self._read.close()
        self._profile.cleanup()

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            RuntimeError: the browser refused it, or is gone.
        """
        self._id += 1
        message = {"id": self._id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read.fileno(), 1 << 20)
            if not part:
                raise RuntimeError("Chromium has ended.")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        event = json.loads(message)
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        return event

    def open(self, path: Path, width: int, height: int, scheme: str = "light", scale: float = 1) -> None:
        """Show a file in a window of a size in pixels, for a reader who prefers a colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self("Emulation.setDeviceMetricsOverride", **size)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self("Page.navigate", url=path.resolve().as_uri())
        while self.evaluate("document.readyState") != "complete" or self.evaluate("location.protocol") != "file:":
            pass

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, width: int, height: int, scale: float = 1) -> Image.Image:
        """The upper part of the page, or all of it with a height of 0."""
        height = height or int(self.evaluate("document.documentElement.scrollHeight"))
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = self("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return Image.open(BytesIO(base64.b64decode(answer["data"]))).convert("RGB")


def save_small(picture: Image.Image, path: Path, largest: int) -> None:
    """As PNG: of all colours where that is small enough, else of 256, else shrunk."""
    picture.save(path, optimize=True)
    while path.stat().st_size > largest:
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size > largest:
            picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="an HTML file of `trl-modality report`")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--height", type=int, help="pixels from the top (default: by width; 0: the whole page)")
    args = parser.parse_args()
    program = find_chromium()
    if program is None:
        raise SystemExit("there is no Chromium: install it, or set CHROMIUM to its path.")
    args.folder.mkdir(parents=True, exist_ok=True)
    with Browser(program) as browser:
        for name, (width, height) in SIZES.items():
            scale = PHONE_SCALE if name == "phone" else 1
            for scheme in ("light", "dark"):
                browser.open(args.report, width, height, scheme, scale)
                if (wide := browser.evaluate("document.documentElement.scrollWidth")) > width:
                    raise SystemExit(f"the page is {wide} pixels wide in a window of {width}.")
                picture = browser.screenshot(width, height if args.height is None else args.height)
                path = args.folder / f"report-{name}-{scheme}.png"
                save_small(picture, path, 10**9 if args.height == 0 else LARGEST)
                print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
