"""Images."""

import errno
import io
import os
import socket
from pathlib import Path
from unittest import mock

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from pyarrow import ArrowInvalid

from tests.faults.fault import Fault, Scene
from tests.testing.tiny import PAIR_FEATURES, pair_dataset, pair_row, picture, tiny_llava
from tests.testing.tiny_families import build
from trl_modality import PairedCollator, images


STORED = Features({**PAIR_FEATURES, "images": List({"bytes": Value("binary"), "path": Value("string")})})


def encoded(image: PILImage.Image, file_format: str = "PNG", **options) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pairs_with(stored: bytes | str | None, at: int = 2, count: int = 4) -> Dataset:
    """Pairs in a dataset, one of which has an image that is stored as these bytes, or at this path."""
    rows = [pair_row(i) for i in range(count)]
    kept = [{"bytes": encoded(row["images"][0]), "path": None} for row in rows]
    kept[at] = {
        "bytes": stored if isinstance(stored, bytes) else None,
        "path": stored if isinstance(stored, str) else None,
    }
    rows = [{**row, "images": [image]} for row, image in zip(rows, kept, strict=True)]
    return Dataset.from_list(rows, features=STORED).cast(PAIR_FEATURES)


def with_image(make, **options):
    """A trainer on pairs, one of which has what `make(scene)` gives as its image."""

    def provoke(scene: Scene) -> None:
        scene.trainer(pairs_with(make(scene)), **options)

    return provoke


def in_memory(**fields):
    """A collator on a row 7 with images that no dataset could store."""

    def provoke(scene: Scene) -> None:
        PairedCollator(tiny_llava()[1])([{**pair_row(7), **fields, "__index__": 7}])

    return provoke


def grey(dtype=np.uint16) -> PILImage.Image:
    values = np.tile(np.linspace(0, 65535 if dtype is not np.float32 else 1, 32).astype(dtype), (32, 1))
    return PILImage.fromarray(values)


def _fifo(scene: Scene) -> str:
    path = scene.folder / "pipe.png"
    os.mkfifo(path)
    return str(path)


def _socket(scene: Scene) -> str:
    # A path of a socket is at most about 100 characters
    path = Path(os.path.relpath(scene.folder / "s"))
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()
    return str(path)


def _reading_fails(*errors: Exception | None):
    """A picture in a file, the first looks at which fail with these errors; `None` is a look that does not."""

    def provoke(scene: Scene) -> None:
        path = scene.folder / "a.png"
        path.write_bytes(encoded(picture(1)))
        looks, stat = [*errors], os.stat

        def look(where, *args, **kwargs):
            error = looks.pop(0) if looks and where == str(path) else None
            if error is not None:
                raise error
            return stat(where, *args, **kwargs)

        images._said.clear()
        with mock.patch.object(images, "WAITS", (0.0, 0.0)), mock.patch.object(images.os, "stat", look):
            PairedCollator(tiny_llava()[1])([{**pair_row(7), "images": [str(path)], "__index__": 7}])

    return provoke


def _bomb_is_reached(scene: Scene) -> None:
    """A small file of 900 million pixels, not among the rows that are checked."""
    bomb = encoded(PILImage.new("1", (30_000, 30_000)))
    options = {"check_rows": 1, "train_sampling_strategy": "sequential"}
    scene.trainer(pairs_with(bomb, at=5, count=8), **options).train()


def _no_memory(scene: Scene) -> None:
    class Huge(PILImage.Image):
        def load(self):
            raise MemoryError

    in_memory(images=[Huge()])(scene)


def _transform_raises(scene: Scene) -> None:
    def change(batch):
        if batch["id"] == ["pair-2"]:
            raise KeyError("chart")
        return batch

    scene.trainer(pair_dataset(4).with_transform(change))


def _arrow_fails(scene: Scene) -> None:
    """Reading the file of a dataset fails when the training has begun."""
    trainer = scene.trainer(check_rows=1)
    with mock.patch.object(Dataset, "__getitem__", side_effect=ArrowInvalid("Expected to read 64 metadata bytes")):
        trainer.train()


def _grey_as_it_is(mode: str):
    """A processor that does not convert to RGB, and a picture with other channels."""

    def provoke(scene: Scene) -> None:
        _, processor = tiny_llava()
        processor.image_processor.do_convert_rgb = False
        PairedCollator(processor)([{**pair_row(7), "images": [picture(7).convert(mode)], "__index__": 7}])

    return provoke


def _too_long(scene: Scene) -> None:
    _, processor = build("qwen2_5_vl")
    PairedCollator(processor)([{**pair_row(7), "images": [picture(7).resize((3000, 8))], "__index__": 7}])


def _animated(scene: Scene) -> bytes:
    images._said.clear()
    return encoded(picture(1), "GIF", save_all=True, append_images=[picture(2)])


SOON = "before the first step"
AT = "`train_dataset` row 2, id='pair-2': image 0 "

FAULTS = [
    Fault(
        "an image of 900 million pixels, not among the rows that were checked",
        "in training",
        r"`train_dataset` row 5, id='pair-5': image 0 cannot be read from its [\d,]+ bytes "
        r"\(DecompressionBombError: .*Scale the image down, or raise `PIL.Image.MAX_IMAGE_PIXELS`",
        _bomb_is_reached,
    ),
    Fault(
        "a file cut off",
        SOON,
        AT + r"cannot be read from its [\d,]+ bytes \(OSError: image file is truncated\)\. Write the image anew",
        with_image(lambda scene: encoded(picture(1))[:-40]),
    ),
    Fault(
        "a file that may not be read",
        SOON,
        r"row 7, .*cannot be read from '.*' \(PermissionError: .*\)\. Let this user read the file",
        _reading_fails(PermissionError(errno.EACCES, "Permission denied")),
    ),
    Fault(
        "a file system that fails for a moment",
        "in training",
        r"Reading failed \(OSError: .* Stale file handle\) and is tried again in",
        _reading_fails(OSError(errno.ESTALE, "Stale file handle"), TimeoutError()),
        left="the row is read at the third try",
        warns=True,
    ),
    Fault(
        "a file system that goes on failing",
        "in training",
        r"row 7, .*cannot be read from '.*' \(OSError: .* Input/output error\)\. It was tried 3 times: check the disk",
        _reading_fails(*[OSError(errno.EIO, "Input/output error")] * 3),
    ),
    Fault(
        "a dataset's own file that cannot be read",
        "in training",
        r"`train_dataset` row \d: it cannot be read from memory \(ArrowInvalid: .*\)\. Load the dataset anew",
        _arrow_fails,
    ),
    Fault(
        "bytes that are no image",
        SOON,
        AT + "cannot be read from its 9 bytes .* It is no image, is cut off, or is of a format",
        with_image(lambda scene: b"<svg/>..."),
    ),
    Fault("no bytes at all", SOON, AT + "cannot be read from its 0 bytes", with_image(lambda scene: b"")),
    Fault("neither bytes nor a path", SOON, AT[:-8] + "image 0 of the text_rich view", with_image(lambda scene: None)),
    Fault(
        "a missing file",
        SOON,
        AT
        + r"cannot be read from '/nowhere/a.png' \(FileNotFoundError: .*\)\. Put the file there, or correct the path",
        with_image(lambda scene: "/nowhere/a.png"),
    ),
    Fault(
        "a path that is looked for elsewhere",
        SOON,
        AT + r"cannot be read from 'a.png' .* It is looked for in '/",
        with_image(lambda scene: "a.png"),
    ),
    Fault(
        "a directory in place of a file",
        SOON,
        AT + r"'/.*' is a directory, not a file\. Give the path of an image file",
        with_image(lambda scene: str(scene.folder)),
    ),
    Fault("a named pipe, which nobody writes to", SOON, AT + r"'.*' is a named pipe \(FIFO\)", with_image(_fifo)),
    Fault("a socket", SOON, AT + "'.*' is a socket, not a file", with_image(_socket)),
    Fault("a device", SOON, AT + "'/dev/zero' is a device, not a file", with_image(lambda scene: "/dev/zero")),
    Fault(
        "a URL that cannot be reached",
        SOON,
        AT + r"cannot be read from 'http://127.0.0.1:9/a.png' .* It is a URL: download the images once",
        with_image(lambda scene: "http://127.0.0.1:9/a.png"),
    ),
    Fault(
        "images that are a string",
        SOON,
        "row 7, .*`images` is str, not a list of images. Put the image into a list",
        in_memory(images="a.png"),
    ),
    Fault("images that are a number", SOON, "row 7, .*`images` is int, not a list of images", in_memory(images=3)),
    Fault(
        "images that are numbers",
        SOON,
        "row 7, .*image 1 of the text_rich view is int",
        in_memory(images=[picture(0), 3]),
    ),
    Fault(
        "not enough memory for an image",
        SOON,
        r"row 7, .*image 0 cannot be read from memory \(MemoryError\)\. Scale the image down, or give",
        _no_memory,
    ),
    Fault(
        "an image without a pixel",
        SOON,
        r"row 7, .*image 0 has no pixel \(it is 0 x 5\)",
        in_memory(images=[PILImage.new("RGB", (0, 5))]),
    ),
    Fault(
        "a picture of 16 bits",
        SOON,
        AT + r"has more than 8 bits \(mode 'I.*', values from 0 to 65535\): .* all above 255 would be white.*"
        r"`trl_modality.images.to_8bit\(",
        with_image(lambda scene: encoded(grey())),
    ),
    Fault(
        "a picture of 32 bits",
        SOON,
        AT + r"has more than 8 bits \(mode 'I', values from 0 to 65535\)",
        with_image(lambda scene: encoded(grey(np.int32), "TIFF")),
    ),
    Fault(
        "a picture of floats",
        SOON,
        AT + r"has more than 8 bits \(mode 'F', values from 0 to 1\): .* fractions black",
        with_image(lambda scene: encoded(grey(np.float32), "TIFF")),
    ),
    Fault(
        "a picture of 16 bits in a column of RGB",
        SOON,
        AT + r"has more than 8 bits \(mode 'I.*'",
        lambda scene: scene.trainer(pairs_with(encoded(grey())).cast_column("images", List(Image(mode="RGB")))),
    ),
    Fault(
        "a palette that the processor would take for colours",
        SOON,
        r"row 7, .*image 0 has the mode 'P', and its processor \(`do_convert_rgb=False`\) would read .* as colours",
        _grey_as_it_is("P"),
    ),
    Fault(
        "an animated image",
        SOON,
        r"An image \(GIF\) has 2 frames, of which the model is shown the first alone",
        with_image(_animated),
        left="it is trained on its first frame",
        warns=True,
    ),
    Fault(
        "a transform of the dataset that raises",
        SOON,
        r"`train_dataset` row 2: the transform of the dataset raises on it \(KeyError: 'chart'\)\. Mend the function",
        _transform_raises,
    ),
    Fault(
        "a picture that is too long for its processor (Qwen2.5-VL)",
        SOON,
        r"row 7, .*the processor cannot collate its text_rich view \(ValueError: absolute aspect ratio must be",
        _too_long,
    ),
    Fault(
        "a bad image of the vision_centric view alone",
        SOON,
        r"row 7, .*image 0 cannot be read from '/nowhere/b.png'",
        in_memory(vision_centric_images=["/nowhere/b.png"]),
    ),
    Fault(
        "both `images` and `image`",
        SOON,
        r"row 7, .*both `images` and `image` are set\. Keep one of the two columns",
        in_memory(image=picture(1)),
    ),
]
