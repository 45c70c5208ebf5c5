"""Whether code can be run safely on this machine: asked of the kernel, not of the sandbox that is tested."""

import subprocess

import pytest


def _are_allowed() -> bool:
    # Namespaces of its own, and the right to mount in them, which some kernels withhold from users
    probe = ["unshare", "-Urmnpif", "mount", "-t", "tmpfs", "none", "/tmp"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


_skips = pytest.mark.skipif(not _are_allowed(), reason="the kernel gives users no namespaces of their own")


def needs_namespaces(test):
    """Mark a test as one that runs code in the sandbox."""
    return pytest.mark.sandbox(_skips(test))
