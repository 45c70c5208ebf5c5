"""Where the images of a file's records are: beside it or below a root, and nowhere else."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...views import PairError


LONGEST_NAME = 255  # of a file
# A PNG, JPEG, GIF or WebP in base64, as tables have images (MMBench)
IN_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR)[A-Za-z0-9+/\s]+=*\s*")


class MissingImage(Exception):
    """An image that is not where its record says: `path` as the record has it."""

    def __init__(self, path: str):
        super().__init__(path)
        self.path = path


class ImageFinder:
    """Finds the images of records without opening any; a path may not lead out of the roots.

    Args:
        folder: Of the file, whose images are looked for beside it where no root is given.
        roots: Folders below which images are looked for, in order.

    Raises:
        ValueError: a root is no folder.
    """

    def __init__(self, folder: Path, roots: Sequence[str | Path] = ()):
        self.roots = [Path(root) for root in roots] or [folder]
        for root in self.roots:
            if not root.is_dir():
                raise ValueError(f"`image_root`: {root} is no folder.")
        self._real = [os.path.realpath(root) for root in self.roots]
        self._found: dict[str, str | None] = {}

    def find(self, image: Any, where: str) -> dict[str, Any]:
        """An image as `datasets.Image` stores it: `{"path", "bytes"}`.

        Args:
            image: A path, a `data:` URL or the file in base64, bytes, or `{"bytes", "path"}`.
            where: What messages call the record.

        Raises:
            MissingImage: there is no such file.
            PairError: it is a URL of the web or something else, or the path leads out of the roots.
        """
        if isinstance(image, Mapping) and image.get("bytes") is not None:
            return {"path": image.get("path"), "bytes": image["bytes"]}
        if isinstance(image, Mapping):
            image = image.get("path")
        if isinstance(image, bytes):
            return {"path": None, "bytes": image}
        if not isinstance(image, str) or not image.strip():
            kind = "empty" if image in (None, "") or isinstance(image, str) else type(image).__name__
            raise PairError(where, f"an image is {kind}.", "Give the path of a file, or a `data:` URL.")
        if image.startswith("data:"):
            return {"path": None, "bytes": _decoded(image, where)}
        if len(image) > LONGEST_NAME and IN_BASE64.fullmatch(image):
            return {"path": None, "bytes": _decoded(f"data:;base64,{image}", where)}
        return {"path": self._path(image, where), "bytes": None}

    def _path(self, given: str, where: str) -> str:
        name = given.removeprefix("file://")
        if "://" in name:
            raise PairError(
                where,
                f"the image {_shortened(given)!r} is on the web.",
                "Download the images once, and give the paths of the files.",
            )
        if name not in self._found:
            self._found[name] = self._look_for(name, where)
        path = self._found[name]
        if path is None:
            raise MissingImage(_shortened(given))
        return path

    def _look_for(self, name: str, where: str) -> str | None:
        """The path of a file below a root; `None` where there is none."""
        if "\0" in name:
            raise PairError(where, f"the path {name!r} of an image has a zero byte in it.", "Correct the path.")
        escapes = ""
        names = [name] if "\\" not in name or os.sep == "\\" else [name, name.replace("\\", "/")]
        for root in self.roots:
            for each in names:
                path = os.path.join(root, each)
                real = os.path.realpath(path)
                if not any(os.path.commonpath((real, base)) == base for base in self._real):
                    escapes = escapes or (real if os.path.lexists(path) or os.path.isabs(each) or ".." in each else "")
                elif os.path.isfile(real):
                    return path
        if escapes:
            raise PairError(
                where,
                f"the image {_shortened(name)!r} leads out of {self.described} (to {_shortened(escapes)!r}).",
                "Name the folder that it is in with `--image-root` (several may be given), or correct the path.",
            )
        return None

    @property
    def described(self) -> str:
        """The roots in words."""
        return " and ".join(repr(str(root)) for root in self.roots)


def _shortened(name: str) -> str:
    """A name for messages: what is long may be a whole file."""
    return name if len(name) <= LONGEST_NAME else f"{name[:60]}... ({len(name):,} characters)"


def _decoded(url: str, where: str) -> bytes:
    head, comma, body = url.partition(",")
    try:
        if not (comma and head.endswith(";base64")):
            raise ValueError("no base64 in it")
        content = base64.b64decode("".join(body.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise PairError(
            where,
            f"an image is a `data:` URL that cannot be read ({error}).",
            "It has to be data:image/png;base64, and the file in base64.",
        ) from error
    if not content:
        raise PairError(where, "an image is a `data:` URL without content.", "Write the image anew.")
    return content
