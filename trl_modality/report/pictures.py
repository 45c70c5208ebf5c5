"""Pictures inside a page: small enough to be passed on, large enough to be read."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from PIL import Image

LARGEST_SIDE = 480  # pixels; shown at half of it or more
MOST_BYTES = 72_000  # of a picture: with 12 of them and all else a page stays below 1.5 MiB


def data_uri(path: Path, most_bytes: int = MOST_BYTES) -> tuple[str, int, int]:
    """A picture as a `data:` address, with its width and height in pixels.

    It is shrunk to 480 pixels a side, and further where its file would be larger than `most_bytes`.

    Raises:
        OSError: there is no such file, or it is not a picture.
        ValueError: it has more pixels than Pillow takes for safe.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            picture = _on_white(opened)
    except (Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be shown: {error}") from error
    side = LARGEST_SIDE
    while True:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        kind, data = _smaller_file(picture)
        if len(data) <= most_bytes or side <= 64:
            return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}", picture.width, picture.height
        side = side * 3 // 4


def _on_white(picture: Image.Image) -> Image.Image:
    from PIL import Image

    picture.draft("RGB", (2 * LARGEST_SIDE, 2 * LARGEST_SIDE))
    full = picture.convert("RGBA")
    ground = Image.new("RGBA", full.size, "white")
    return Image.alpha_composite(ground, full).convert("RGB")


def _smaller_file(picture: Image.Image) -> tuple[str, bytes]:
    """PNG of 256 colours for drawings, JPEG for photographs: whichever is smaller."""
    from PIL import Image

    png, jpeg = BytesIO(), BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
    picture.save(jpeg, "JPEG", quality=82, optimize=True)
    is_drawing = len(png.getvalue()) <= len(jpeg.getvalue())
    return ("png", png.getvalue()) if is_drawing else ("jpeg", jpeg.getvalue())
