"""Blocking points of the hosts, which are not ours to remove, each with its reason."""

KNOWN_BLOCKING: dict[str, str] = {}
"""Reasons by pattern (`fnmatch`) of `BlockingPoint.by`."""
