"""One image, read from where it is stored; everything that can be wrong with it has its own words and its remedy."""

import errno
import logging
import math
import os
import stat
import time
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, NamedTuple, TypeVar


logger = logging.getLogger(__name__)

Read = TypeVar("Read")
# Errors of network file systems and busy machines, which may be gone a moment later; a missing file is not among them
PASSING = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EBUSY", "EINTR", "ENFILE", "EREMOTEIO", "ENOTCONN"),
        *("ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EHOSTUNREACH", "EHOSTDOWN", "ENETUNREACH", "ENETDOWN"),
    )
    if hasattr(errno, name)
)
WAITS = (0.1, 0.5, 2.0)
"""Seconds before each further try to read what failed with an error that may pass."""
# Of files that are no files; opening a pipe that nobody writes to would wait for ever
SPECIAL_FILES = {
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a named pipe (FIFO)",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
_said: set[str] = set()


class ImageFault(Exception):
    """An image that cannot be used: what is the matter, and what to do about it."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem} {remedy}")
        self.problem, self.remedy = problem, remedy


class PixelLimits(NamedTuple):
    """How many pixels (width times height) an image may have, and has to have, when it is given to a processor."""

    max_pixels: int | None = None
    min_pixels: int | None = None

    @classmethod
    def of(cls, args: Any) -> "PixelLimits":
        """Those of a config or of the arguments of a command; of another config than ours, none."""
        return cls(getattr(args, "max_pixels", None), getattr(args, "min_pixels", None))

    def check(self) -> "PixelLimits":
        """The limits themselves; `ValueError` names the one that cannot be kept."""
        for name, value in self._asdict().items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` must be a whole number of pixels ≥ 1 or None, got {value!r}.")
        if self.max_pixels is not None and self.min_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"`min_pixels`={self.min_pixels} is above `max_pixels`={self.max_pixels}: no image can be both. Lower "
                "the one or raise the other."
            )
        return self

    @property
    def set_ones(self) -> dict[str, int]:
        """Those that are set, by their names."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def fitted(self, image: Any) -> Any:
        """A PIL image scaled into the limits, its aspect ratio kept to the pixel; itself where it is in them already.

        Nothing is cropped or padded. Lanczos's filter, whose support grows with the scale, so that all pixels of a
        large image count; colours and transparency are scaled apart.

        Raises:
            ImageFault: it is so narrow that it would lose its width or its height.
        """
        width, height = size = image.size
        if self.max_pixels is not None and width * height > self.max_pixels:
            scale = math.sqrt(self.max_pixels / (width * height))
            size = math.floor(width * scale), math.floor(height * scale)
            if not all(size):
                raise ImageFault(
                    f"is {width} x {height}, of which `max_pixels`={self.max_pixels} leaves no width or no height.",
                    "Raise `max_pixels`, or cut the image into parts.",
                )
        elif self.min_pixels is not None and width * height < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (width * height))
            size = math.ceil(width * scale), math.ceil(height * scale)
            if self.max_pixels is not None and size[0] * size[1] > self.max_pixels:
                size = max(1, math.floor(width * scale)), max(1, math.floor(height * scale))
        return image if size == image.size else _resized(image, size)


def _resized(image: Any, size: tuple[int, int]) -> Any:
    from PIL import Image  # not at the top: this module stays light

    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "PA"):  # numbers of colours, between which there is nothing
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    # Pillow weighs colours by their alpha, so that what is transparent turns black; processors drop the alpha
    bands = [band.resize(size, Image.Resampling.LANCZOS) for band in image.split()]
    return bands[0] if len(bands) == 1 else Image.merge(image.mode, bands)


def read_image(value: Any) -> Any:
    """The PIL image of a stored value, upright (EXIF) and decoded, as `datasets` decodes it.

    Args:
        value: A PIL image, a path, or `{"bytes", "path"}`, perhaps with the `mode` of `datasets.Image`.

    Raises:
        ImageFault: it cannot be read, or cannot be shown to a model as it is.
    """
    try:
        if isinstance(value, Mapping):
            image = _decode(value.get("bytes"), value.get("path"), value.get("mode"))
        elif isinstance(value, str | PathLike):
            image = _decode(None, str(value), None)
        elif hasattr(value, "load"):
            value.load()  # a lazily opened file may be truncated: find out here, where the row is known
            image = _upright(value)
        else:
            raise ImageFault(
                f"is {type(value).__name__}.", "Use a PIL image, a path, or a dict with `bytes` or `path`."
            )
    except ImageFault:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".rstrip(".").rstrip(": ")
        raise ImageFault(f"cannot be read from {_where(value)} ({reason}).", _remedy(error, value)) from error
    check_size(image)
    check_mode(image)
    return image


def to_8bit(image: Any, low: float, high: float) -> Any:
    """A picture of 16 or 32 bits or of floats as 8-bit greyscale: `low` becomes black, `high` white.

    Models take 8 bits. Pillow's own conversion cuts all values above 255, so that such a picture turns white (or, of
    floats in [0, 1], black). Map it over a dataset:

        dataset.map(lambda row: {"images": [to_8bit(image, 0, 65535) for image in row["images"]]})

    Args:
        image: A PIL image of one channel (of mode "I;16", "I" or "F", say), or an array `[height, width]`.
        low, high: The values that become 0 and 255; those beyond are cut to them.

    Raises:
        ValueError: `low` is not below `high`, or a value is not finite.
    """
    import numpy as np  # not at the top: this module stays light
    from PIL import Image

    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"`low` must be a finite number below `high`, got {low} and {high}.")
    values = np.asarray(image, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"An image of one channel is needed, got an array of shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("The image has values that are not finite: fill them in first (`numpy.nan_to_num`).")
    return Image.fromarray(np.rint((values - low) / (high - low) * 255).clip(0, 255).astype(np.uint8))


def retried(read: Callable[[], Read]) -> Read:
    """The result of a read, tried again after `WAITS` where its error may pass."""
    for wait in WAITS:
        try:
            return read()
        except OSError as error:
            if not may_pass(error):
                raise
            _say_once("retry", f"Reading failed ({type(error).__name__}: {error}) and is tried again in {wait:g} s.")
            time.sleep(wait)
    return read()


def may_pass(error: OSError) -> bool:
    """Whether an error of reading may be gone at the next try."""
    return error.errno in PASSING or isinstance(error, TimeoutError | ConnectionError)


def check_size(image: Any) -> None:
    """Refuse an image without a pixel.

    Raises:
        ImageFault: it has none.
    """
    if not (image.width and image.height):
        raise ImageFault(f"has no pixel (it is {image.width} x {image.height}).", "Replace it or remove the row.")


def check_mode(image: Any) -> None:
    """Refuse an image that Pillow cannot turn into RGB without cutting its values; warn of one with several frames.

    Raises:
        ImageFault: floats, or values beyond 0 to 255.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        low, high = image.getextrema()
        if image.mode != "F" and low >= 0 and high <= 255:
            return  # values of 8 bits in a wider type, which stay what they are
        raise ImageFault(
            f"has more than 8 bits (mode {image.mode!r}, values from {low:g} to {high:g}): turned into RGB, all above "
            "255 would be white, and fractions black.",
            "Say which values are black and white, in your dataset: `trl_modality.images.to_8bit(image, low, high)`.",
        )
    # A photograph's MPO has a second frame for the camera's own use
    if getattr(image, "is_animated", False) and getattr(image, "format", None) != "MPO":
        _say_once(
            "animated",
            f"An image ({image.format}) has {image.n_frames} frames, of which the model is shown the first alone. If "
            "the others matter, store each as an image of its own. This is said once.",
        )


def _decode(content: bytes | None, path: str | None, mode: str | None) -> Any:
    from datasets import Image  # not at the top: this module stays light

    if content is None and path is None:
        raise ImageFault("has neither `bytes` nor a `path`.", "Fill one of them in, or remove the row.")
    if content is None and path is not None and "://" not in path:
        _check_file(path)
    image = retried(lambda: Image().decode_example({"path": path, "bytes": content}))
    if mode is not None and mode != image.mode:
        check_mode(image)  # as `datasets` does, but not where values would be cut
        image = image.convert(mode)
    return image


def _check_file(path: str) -> None:
    """Raise unless a path is that of a file: opening a pipe waits until somebody writes into it."""
    kind = retried(lambda: os.stat(path)).st_mode
    for is_kind, name in SPECIAL_FILES.items():
        if is_kind(kind):
            raise ImageFault(f"{path!r} is {name}, not a file.", "Give the path of an image file.")


def _upright(image: Any) -> Any:
    """The image as a viewer shows it, if it comes from a file; one made in memory may have been turned already."""
    from PIL import ImageFile, ImageOps

    if not isinstance(image, ImageFile.ImageFile) or image.getexif().get(0x0112, 1) == 1:  # orientation
        return image
    return ImageOps.exif_transpose(image)


def _where(value: Any) -> str:
    if isinstance(value, Mapping):
        if value.get("bytes") is not None:
            name = f" ({value['path']!r})" if value.get("path") else ""
            return f"its {len(value['bytes']):,} bytes{name}"
        value = value.get("path")
    if isinstance(value, str | PathLike):
        return repr(str(value))
    filename = getattr(value, "filename", None)
    return repr(str(filename)) if filename else "memory"


def _remedy(error: Exception, value: Any) -> str:
    """What to do about an error of reading or decoding."""
    path = value.get("path") if isinstance(value, Mapping) and value.get("bytes") is None else value
    path = str(path) if isinstance(path, str | PathLike) else ""
    kind = type(error).__name__
    if "://" in path:
        return "It is a URL: download the images once, and give the paths of the files."
    if isinstance(error, FileNotFoundError):
        relative = "" if os.path.isabs(path) else f" It is looked for in {os.getcwd()!r}."
        return f"Put the file there, or correct the path in the row.{relative}"
    if isinstance(error, PermissionError):
        return "Let this user read the file."
    if kind == "DecompressionBombError":
        return "Scale the image down, or raise `PIL.Image.MAX_IMAGE_PIXELS` if you trust it."
    if isinstance(error, MemoryError):
        return "Scale the image down, or give the process more memory."
    if kind == "UnidentifiedImageError":
        return "It is no image, is cut off, or is of a format that Pillow does not read: save it as PNG or JPEG."
    if isinstance(error, OSError) and may_pass(error):
        return f"It was tried {len(WAITS) + 1} times: check the disk or the network behind it, and resume."
    return "Write the image anew, or remove the row."


def _say_once(what: str, message: str) -> None:
    if what not in _said:
        _said.add(what)
        logger.warning(message)
