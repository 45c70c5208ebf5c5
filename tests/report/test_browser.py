"""The page in a browser: no sideways scrolling, dark where it is wanted, nothing loaded, nothing run."""

import importlib.util
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.testing.report_runs import BEFORE, MadeEvaluation, rich_run, write_record
from trl_modality.report.figures.palette import PALETTE
from trl_modality.report.page import page
from trl_modality.report.reading.runs import read_runs


SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "make_screenshots.py"
_SPEC = importlib.util.spec_from_file_location("make_screenshots", SCRIPT)
screenshots = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(screenshots)
PROGRAM = screenshots.find_chromium()

pytestmark = [pytest.mark.browser, pytest.mark.skipif(PROGRAM is None, reason="needs Chromium"), pytest.mark.slow]


@pytest.fixture(scope="module")
def browser():
    with screenshots.Browser(PROGRAM) as browser:
        yield browser


def html_file(folder, *runs):
    file = folder / "page.html"
    file.write_text(page("A title", read_runs(runs))[0], encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rich")
    return html_file(folder, rich_run(folder / "kl", "KL", "linear", True, 1, examples=3))


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    """Names without an end, in everything that has one."""
    folder = tmp_path_factory.mktemp("huge")
    name = "outputs/a_name_without_an_end_" * 10
    runs = []
    for number in range(2):
        run = folder / f"run-{number}"
        write_record(run, f"{name}{number}", model=name, command=name * 3, config={name: name, "list": [name] * 5})
        for evaluation in ("before", name[8:36]):
            made = MadeEvaluation(run / "evals" / evaluation, BEFORE, 40, examples=1, categories=(name, "b"))
            made.write()
        runs.append(run)
    return html_file(folder, *runs)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("which", ["rich", "huge"])
def test_the_page_does_not_scroll_sideways(browser, request, which, width):
    browser.open(request.getfixturevalue(which), width, 900)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    # Folded parts too
    browser.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_scheme(browser, rich, scheme):
    browser.open(rich, 1280, 900, scheme)
    colour = tuple(bytes.fromhex(getattr(PALETTE["page"], scheme)[1:]))
    assert browser.screenshot(1280, 300).getpixel((3, 3)) == colour
    style = "getComputedStyle(document.querySelector('svg .f-text_rich')).fill"
    expected = tuple(bytes.fromhex(getattr(PALETTE["text_rich"], scheme)[1:]))
    assert browser.evaluate(style) == f"rgb{expected}"


@pytest.fixture
def asked():
    """A server on this machine: its port, and what was asked of it."""
    found = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, found
    server.shutdown()
    server.server_close()


def test_nothing_is_loaded_and_nothing_runs(browser, rich, tmp_path, asked):
    browser.requests.clear()
    browser.open(rich, 1280, 900)
    assert {url for url in browser.requests if not url.startswith("data:")} == {rich.as_uri()}
    # Were a text of a model's to get through as markup: the policy of the page holds it
    port, found = asked
    attack = f"<script>window.ran = 1</script><img src=http://127.0.0.1:{port}/leak onerror='window.ran = 2'>"
    broken = tmp_path / "broken.html"
    broken.write_text(rich.read_text().replace("</header>", f"{attack}</header>"))
    browser.open(broken, 1280, 900)
    assert browser.evaluate("window.ran") is None
    assert found == []
    # And it would have done both without one
    broken.write_text(broken.read_text().replace("Content-Security-Policy", "X"))
    browser.open(broken, 1280, 900)
    assert browser.evaluate("window.ran") in (1, 2)
    assert found == ["/leak"]


def test_the_script_makes_four_pictures(rich, tmp_path):
    command = [sys.executable, str(SCRIPT), str(rich), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert set(sizes) == {
        f"report-{size}-{scheme}.png" for size in ("desktop", "phone") for scheme in ("light", "dark")
    }
    assert all(10_000 < size <= screenshots.LARGEST for size in sizes.values())
