"""`manifest.json` of a checkpoint: its files with their hashes, and what its run was; written last."""

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xxhash

from .._compat import UNFINISHED_MARK
from ..resumable.records import write_json


MANIFEST = "manifest.json"
FORMAT = 1
SHARDS = ".metadata"
"""In a folder of FSDP, the file that says which tensor is where; nothing can be loaded without it."""
# One read: larger ones do not fit the cache of a core, and take twice as long
READ_BYTES = 2**20
# Files from this size on are not hashed again where their time of change is the same: a smaller one may be written
# twice within one tick of the clock of a file system
REMEMBERED_BYTES = 2**20
# What a host would load if it were there; any other file that came later is no concern of a checkpoint
LOADED = (
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("adapter_model.safetensors", "adapter_model.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"),
)


class DamagedCheckpointError(ValueError):
    """A checkpoint whose files are not those that were written."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Args:
        step: Optimizer steps that were done.
        run_id: Of the run that saved it; a resumed run keeps it.
        ranks: Number of processes.
        versions: Of the package and its hosts.
        fingerprint: What the run was made of, by name; see `fingerprint.run_fingerprint`.
        files: Size and hash (XXH3, 128 bits) of every file of the checkpoint, by its path in it.
        saved_at: Time in UTC, ISO 8601 with microseconds.
        changing: Files that are written anew after the evaluation of the step: not compared until that is done.
    """

    step: int
    run_id: str
    ranks: int
    versions: Mapping[str, str]
    fingerprint: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    saved_at: str
    changing: Sequence[str] = ()


class ManifestWriter:
    """Writes the manifests of a run; hashes of large files that have not changed since are kept in memory."""

    def __init__(self):
        self._known: dict[tuple[str, int, int, int], str] = {}
        self._last: tuple[Path, dict[str, Any], dict[str, Any]] | None = None

    def write(self, folder: str | os.PathLike, names: Sequence[str] | None = None, **told: Any) -> Manifest:
        """Hash the files of a checkpoint and write its manifest, atomically.

        Called by one process, after all have written their files.

        Args:
            folder: The checkpoint.
            names: Of its files; `None` is all of them.
            **told: The fields of `Manifest` but `files` and `saved_at`.
        """
        folder = Path(folder)
        paths = checkpoint_files(folder) if names is None else names
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            entries = dict(zip(paths, pool.map(self._entry, (folder / path for path in paths)), strict=True))
        manifest = Manifest(**told, files=entries, saved_at=datetime.now(UTC).isoformat())
        _write(folder, manifest)
        self._last = folder, told, _changes(folder, paths)
        return manifest

    def write_if_changed(self, folder: str | os.PathLike) -> None:
        """Write the manifest that was written last anew where its files are others by now: callbacks change them.

        Files that a callback adds are none of the checkpoint, unless a host would load them.
        """
        folder = Path(folder)
        if self._last is None or self._last[0] != folder or not folder.is_dir():
            return
        _, told, before = self._last
        names = [name for name in checkpoint_files(folder) if name in before or name in LOADED]
        if _changes(folder, names) != before:
            self.write(folder, names, **told)

    def _entry(self, path: Path) -> dict[str, Any]:
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if stat.st_size < REMEMBERED_BYTES:
            return {"size": stat.st_size, "xxh3_128": file_hash(path)}
        self._known.setdefault(key, "")
        self._known[key] = self._known[key] or _hash_of_written(path)
        return {"size": stat.st_size, "xxh3_128": self._known[key]}


def _changes(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """By file, what is another once it was written to."""
    stats = {name: (folder / name).stat() for name in names}
    return {name: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats.items()}


def mark_changing(folder: str | os.PathLike, names: Sequence[str]) -> None:
    """Say in the manifest of a checkpoint that some of its files are about to be written anew.

    Whoever is killed meanwhile leaves a checkpoint that can be resumed from. The next manifest says nothing of it.
    """
    manifest = read_manifest(folder)
    if manifest is not None:
        _write(Path(folder), replace(manifest, changing=[name for name in manifest.files if name in names]))


def _write(folder: Path, manifest: Manifest) -> None:
    content = json.loads(json.dumps({"format": FORMAT, "kind": "checkpoint", **asdict(manifest)}))
    write_json(folder / MANIFEST, {**content, "digest": _digest(content)})


def checkpoint_files(folder: Path) -> list[str]:
    """The files of a checkpoint, by their path in it, in order; folders of sharded checkpoints are gone through.

    Left out are the manifest itself, the mark that the host sets until it is there, and names that begin with "." or
    "_": unfinished files, locks.
    """
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = (path for path in paths if path.name == SHARDS or not any(part.startswith(".") for part in path.parts))
    names = (path.as_posix() for path in kept if path.parts[0][0] != "_")
    return sorted(name for name in names if name not in (MANIFEST, UNFINISHED_MARK))


def file_hash(path: str | os.PathLike) -> str:
    """XXH3 (128 bits) of every byte of a file, as hexadecimal digits."""
    digest, buffer = xxhash.xxh3_128(), bytearray(READ_BYTES)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while n_read := file.readinto(buffer):
            digest.update(view[:n_read])
    return digest.hexdigest()


def _hash_of_written(path: Path) -> str:
    """`file_hash` of a file that was just written: its pages are in memory, and are not copied, in half the time.

    Where a disk fails while such memory is read, the process is killed without a word, so files that are to be loaded
    are read instead.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return xxhash.xxh3_128_hexdigest(content)
    except (OSError, ValueError):  # a file system that maps no files
        return file_hash(path)


def read_manifest(folder: str | os.PathLike) -> Manifest | None:
    """The manifest of a checkpoint; `None` where it has none.

    Raises:
        DamagedCheckpointError: it is not as it was written.
    """
    path = Path(folder) / MANIFEST
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedCheckpointError(f"{MANIFEST} cannot be read ({error})") from error
    try:
        content = json.loads(text)
        if content.pop("digest") != _digest(content) or content.pop("kind") != "checkpoint":
            raise ValueError
        if content.pop("format") != FORMAT:
            raise DamagedCheckpointError(f"{MANIFEST} is of another version of trl-modality")
        return Manifest(**{**content, "changing": tuple(content["changing"])})
    except DamagedCheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedCheckpointError(f"{MANIFEST} is not as it was written") from None


def verify_files(folder: str | os.PathLike, manifest: Manifest) -> None:
    """Compare the files of a checkpoint with its manifest: first that all are there, then sizes, then hashes.

    Raises:
        DamagedCheckpointError: the message names the files and what is wrong with them.
    """
    folder = Path(folder)
    number = folder.name.removeprefix("checkpoint-")
    if folder.name.startswith("checkpoint-") and number.isdigit() and int(number) != manifest.step:
        raise DamagedCheckpointError(f"the folder holds the files of step {manifest.step}")
    wrong = [
        f"{name} was not part of it" for name in LOADED if name not in manifest.files and (folder / name).exists()
    ]
    for name, entry in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            wrong.append(f"{name} is missing")
            continue
        if size != entry["size"] and name not in manifest.changing:
            wrong.append(f"{name} has {size:,} bytes of {entry['size']:,}")
    if not wrong:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            found = pool.map(_hash_or_error, (folder / name for name in manifest.files))
            for (name, entry), hash_ in zip(manifest.files.items(), found, strict=True):
                if hash_ != entry["xxh3_128"] and name not in manifest.changing:
                    wrong.append(f"{name} has other bytes than were written")
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DamagedCheckpointError(", ".join(wrong[:3]) + more)


def _hash_or_error(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError as error:
        return f"cannot be read: {error}"


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode())
