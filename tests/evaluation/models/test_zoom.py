"""Looking twice, with a generator that is told what to reply."""

import copy

import pytest
from PIL import Image
from trl import prepare_multimodal_messages

from trl_modality.evaluation.models.requests import Generation, Request, RequestError
from trl_modality.evaluation.models.zoom import Box, ZoomGenerator, crop, parse_box


class Fake:
    """Replies from a list to the first pass and "answer N" to the second; keeps what it was asked."""

    name = "fake"

    def __init__(self, *replies):
        self.replies, self.calls = replies, []

    def __call__(self, requests):
        self.calls.append(list(requests))
        if self.replies and len(self.calls) == 1:
            return [Generation(text, True) for text in self.replies]
        return [Generation(f"answer {index}", True) for index in range(len(requests))]


def picture(width=1000, height=500):
    """Each pixel says where it is: red its column, green its row, modulo 251."""
    columns = Image.frombytes("L", (width, height), bytes(x % 251 for x in range(width)) * height)
    rows = Image.frombytes("L", (width, height), b"".join(bytes([y % 251]) * width for y in range(height)))
    return Image.merge("RGB", (columns, rows, rows))


@pytest.fixture(scope="module")
def image():
    return picture()


def ask(image, *more, parts=False):
    content = [{"type": "image"}, {"type": "text", "text": "How many?"}] if parts else "How many?"
    return Request([{"role": "user", "content": content}], (image, *more))


@pytest.mark.parametrize(
    ("reply", "box"),
    [
        ("[100, 200, 300, 400]", (0.1, 0.2, 0.3, 0.4)),
        ('```json\n[{"bbox_2d": [100, 200, 300, 400], "label": "bar"}]\n```', (0.1, 0.2, 0.3, 0.4)),
        ("<box>[[100,200,300,400]]</box>", (0.1, 0.2, 0.3, 0.4)),
        ("(100,200),(300,400)", (0.1, 0.2, 0.3, 0.4)),
        ("[0, 0, 1000, 1000]", (0, 0, 1, 1)),
        ("[100.5, 200, 300, 400] as said: [100.5, 200, 300, 400]", (0.1005, 0.2, 0.3, 0.4)),
        ("[100, 200, 300, 400] or [0, 0, 10, 10]", None),
        ("[300, 200, 100, 400]", None),
        ("[100, 200, 100, 400]", None),
        ("[100, 200, 300, 1001]", None),
        ("[-100, 200, 300, 400]", None),
        ("[100, 200, 300]", None),
        ("[1, 2, 3, 4, 5]", None),
        ("[nan, 0, 1e3, 5]", None),
        ("the bar on the left", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_parse_box(reply, box):
    assert parse_box(reply, [(1000, 500)]) == (box and Box(*box))


def test_parse_box_of_several_images_and_in_pixels():
    sizes = [(1000, 500), (200, 100)]
    assert parse_box("image 2 [0, 0, 500, 500]", sizes) == Box(0, 0, 0.5, 0.5, 1)
    assert parse_box("[0, 0, 500, 500]", sizes) is None
    assert parse_box("image 3 [0, 0, 500, 500]", sizes) is None
    assert parse_box("image 0 [0, 0, 500, 500]", sizes) is None
    assert parse_box("image 1 or image 2 [0, 0, 500, 500]", sizes) is None
    assert parse_box("image 2 [0, 0, 100, 50]", sizes, scale=None) == Box(0, 0, 0.5, 0.5, 1)
    assert parse_box("image 2 [0, 0, 300, 50]", sizes, scale=None) is None


def corner(part):
    return part.getpixel((0, 0))[:2]


def test_crop_is_native(image):
    part = crop(image, Box(0.1, 0.2, 0.3, 0.6), padding=0, min_side=1)
    assert part.size == (200, 200)
    assert corner(part) == (100, 100)
    assert part.getpixel((150, 20))[:2] == (250, 120)
    padded = crop(image, Box(0.1, 0.2, 0.3, 0.6), padding=0.1, min_side=1)
    assert (padded.size, corner(padded)) == ((240, 240), (80, 80))


def test_small_boxes_take_in_more_of_the_image(image):
    part = crop(image, Box(0.1, 0.5, 0.11, 0.512), padding=0, min_side=100)
    assert (part.size, corner(part)) == ((100, 100), (55, 203))
    at_the_edge = crop(image, Box(0, 0, 0.01, 0.01), padding=0.5, min_side=100)
    assert (at_the_edge.size, corner(at_the_edge)) == ((100, 100), (0, 0))
    far = crop(image, Box(0.99, 0.99, 1, 1), padding=0.5, min_side=100)
    assert (far.size, corner(far)) == ((100, 100), (900 % 251, 400 % 251))


def test_only_images_below_the_minimum_are_enlarged():
    part = crop(picture(80, 40), Box(0.5, 0.5, 1, 1), padding=0, min_side=60)
    assert part.size == (90, 60)  # 60 by 40 of it, in proportion


@pytest.mark.parametrize("parts", [False, True])
def test_two_passes(image, parts):
    generator = Fake("[100, 200, 300, 600]", "nowhere", "[0, 0, 500, 500]")
    requests = [ask(image, parts=parts) for _ in range(3)]
    before = copy.deepcopy([request.prompt for request in requests])
    zoom = ZoomGenerator(generator, padding=0)
    answers = zoom(requests)
    assert [answer.text for answer in answers] == ["answer 0", "answer 1", "answer 2"]
    assert [answer.is_fallback for answer in answers] == [False, True, False]
    assert (zoom.fallbacks, zoom.total, zoom.name) == (1, 3, "fake (zoom)")
    first, second = generator.calls
    for request, original in zip(first, requests, strict=True):
        assert request.images == original.images
        assert "0 to 1000" in str(request.prompt)
        assert "How many?" in str(request.prompt)
    assert second[1] is requests[1]
    assert [len(request.images) for request in second] == [2, 1, 2]
    assert second[0].images[0] is image
    assert (second[0].images[1].size, second[2].images[1].size) == ((200, 200), (500, 250))
    assert "last image is a closer look at a part of the image" in str(second[0].prompt)
    assert [request.prompt for request in requests] == before
    rendered = prepare_multimodal_messages(second[0].prompt, images=list(second[0].images))
    blocks = rendered[-1]["content"]
    assert [block["type"] for block in blocks][:3] == ["image", "image", "text"]
    assert blocks[1]["image"] is second[0].images[1]
    assert blocks[2]["text"].startswith("How many?")


def test_several_images_and_turns(image):
    other = picture(200, 100)
    prompt = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "This."}]},
        {"role": "user", "content": [{"type": "text", "text": "Sure?"}]},
    ]
    generator = Fake("image 2 [0, 0, 1000, 1000]")
    ZoomGenerator(generator)([Request(prompt, (image, other))])
    (box_request,), (request,) = generator.calls
    assert "There are 2 images" in str(box_request.prompt[3])
    assert [block["type"] for block in request.prompt[1]["content"]] == ["image"] * 3 + ["text"]
    assert "part of image 2" in str(request.prompt[3])
    assert request.images[:2] == (image, other)
    assert request.images[2].tobytes() == crop(other, Box(0, 0, 1, 1), padding=0, min_side=112).tobytes()


def test_pixels_are_asked_for(image):
    generator = Fake("[0, 0, 500, 250]")
    ZoomGenerator(generator, scale=None, padding=0)([ask(image)])
    assert "in pixels (of 1000 by 500)" in generator.calls[0][0].prompt[0]["content"]
    assert generator.calls[1][0].images[1].size == (500, 250)


def test_own_choice(image):
    generator = Fake()
    seen = []

    def choose(request, back_end):
        seen.append((request, back_end))
        return Box(0, 0, 0.5, 0.5) if len(seen) == 1 else None

    requests = [ask(image), ask(image)]
    zoom = ZoomGenerator(generator, choose)
    assert len(zoom(requests)) == 2
    assert seen == [(requests[0], generator), (requests[1], generator)]
    assert zoom.fallbacks == 1
    assert [[len(request.images) for request in call] for call in generator.calls] == [[2, 1]]
    with pytest.raises(ValueError, match=r"shows 1 image"):
        ZoomGenerator(generator, lambda *_: Box(0, 0, 1, 1, image=1))(requests)


def test_bad_requests(image):
    zoom = ZoomGenerator(Fake())
    with pytest.raises(RequestError, match="its prompt is a string") as caught:
        zoom([ask(image), Request("<image>How many?", (image,))])
    assert caught.value.position == 1
    with pytest.raises(RequestError, match="it shows no image"):
        zoom([Request([{"role": "user", "content": "How many?"}], ())])
    with pytest.raises(ValueError, match="no message of the user"):
        zoom([Request([{"role": "system", "content": "How many?"}], (image,))])
    with pytest.raises(ValueError, match="padding"):
        ZoomGenerator(Fake(), padding=-1)
    with pytest.raises(ValueError, match="scale"):
        ZoomGenerator(Fake(), scale=0)
    with pytest.raises(ValueError, match="no part of an image"):
        Box(0.5, 0, 0.5, 1)
    assert zoom.generator.calls == []
