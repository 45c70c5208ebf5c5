"""Pictures embedded in a page as `data:` addresses, shrunk to a limit of bytes."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from PIL import Image

LARGEST_SIDE = 480  # pixels; a page shows a picture at half of that or more
MOST_BYTES = 72_000  # bytes of a picture's file; so a page with 12 pictures stays below 1.5 MiB


def data_uri(path: Path, most_bytes: int = MOST_BYTES) -> tuple[str, int, int]:
    """A picture as a `data:` address, with its width and height in pixels.

    The picture is shrunk to at most 480 pixels a side, and further until its file has at most `most_bytes` bytes or
    64 pixels a side.

    Raises:
        OSError: there is no such file, or it is not a picture.
        ValueError: the picture has more pixels than Pillow considers safe, or is broken.
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
    """Format and bytes of the smaller file: PNG of 256 colours (drawings) or JPEG (photographs)."""
    from PIL import Image

    png, jpeg = BytesIO(), BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
    picture.save(jpeg, "JPEG", quality=82, optimize=True)
    is_drawing = len(png.getvalue()) <= len(jpeg.getvalue())
    return ("png", png.getvalue()) if is_drawing else ("jpeg", jpeg.getvalue())
