"""Optional packages: what is missing is said with the extra that brings it."""

from importlib.util import find_spec


def require(package: str, *, extra: str, purpose: str) -> None:
    """Raise `ImportError`, naming the extra, unless the package is installed; imports nothing."""
    if find_spec(package) is None:
        raise ImportError(
            f"{purpose} `{package}`, which is not installed: pip install 'trl-modality[{extra}]'.", name=package
        )
