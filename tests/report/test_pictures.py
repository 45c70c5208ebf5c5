"""Pictures of examples in the page: small enough, of any kind, and named where they cannot be shown."""

import pytest
from PIL import Image

from tests.testing.report_runs import BEFORE, MadeEvaluation
from trl_modality.evaluation.worst_pairs import ShownAnswer
from trl_modality.report.page import page
from trl_modality.report.pictures import data_uri
from trl_modality.report.reading.evaluations import Evaluation, Example
from trl_modality.report.reading.runs import Run, read_run


def test_pictures_that_cannot_be_shown(tmp_path):
    folder = MadeEvaluation(tmp_path / "stock", BEFORE, rows=30, examples=3).write()
    (folder / "examples/0.png").unlink()
    (folder / "examples/1.png").write_bytes(b"no picture")
    html, _ = page("title", [read_run(folder)])
    assert html.count("<img") == 1
    assert html.count("cannot be shown") == 4  # a note and a place each
    assert "the image 0.png cannot be shown (FileNotFoundError)" in html


@pytest.mark.parametrize(("side", "is_tiny"), [(64, True), (97, False)])
def test_tiny_pictures_are_shown_larger(tmp_path, side, is_tiny):
    Image.new("RGB", (side, 40)).save(tmp_path / "a.png")
    example = Example("a", "", "1", {}, {"text_rich": ShownAnswer("1", "1", True)}, [tmp_path / "a.png"])
    html, _ = page("title", [Run("run", [Evaluation("after", examples=[example])])])
    assert ('class="tiny"' in html) is is_tiny


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "CMYK", "I;16", "LA"])
def test_pictures_of_any_kind_become_small(tmp_path, mode):
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    Image.new(mode, (1800, 900)).save(path)
    uri, width, height = data_uri(path)
    assert uri.startswith("data:image/")
    assert (width, height) == (480, 240)


def test_a_noisy_picture_becomes_small_too(tmp_path):
    Image.effect_noise((1500, 1500), 120).convert("RGB").save(tmp_path / "noise.png")
    uri, width, _ = data_uri(tmp_path / "noise.png", most_bytes=20_000)
    assert len(uri) < 1.4 * 20_000
    assert 64 <= width < 480


def test_a_picture_with_too_many_pixels(tmp_path, monkeypatch):
    Image.new("1", (400, 400)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb\.png cannot be shown"):
        data_uri(tmp_path / "bomb.png")
