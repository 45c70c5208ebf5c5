"""Download what `make gpu` needs beside a machine's own torch: wheels for Linux on x86-64, without torch and Triton.

    python benchmarks/gpu_wheels.py wheels [--python 3.12] [--torch 2.11.0] [--torchvision]

Run it where there is a network, and copy the folder. pip resolves the packages with torch among them, by metadata
alone, and what belongs to torch is then left out: the machine's own is used.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path


PACKAGES = (
    "trl>=1.16,<2",
    "transformers>=5.19",
    "accelerate>=1.12",
    "datasets>=4.7",
    "peft>=0.18",
    "pillow>=10.1",
    "jinja2>=3.1",
    "psutil",
    "pytest>=8,<9.2",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "liger-kernel>=0.8.2",
    "cut-cross-entropy",
)
OWN = re.compile(r"(torch|torchvision|triton|pytorch-triton|nvidia-.*|cuda-.*|setuptools)$")
"""Packages that the machine has: torch, and what it brings along."""


def platform_options(python: str) -> list[str]:
    """Of pip: wheels for another machine than this one."""
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (17, 27, 28, 34)]
    return ["--only-binary=:all:", f"--python-version={python}", "--platform=manylinux2014_x86_64", *platforms]


def pins_of(report: dict, keeps: set[str]) -> list[str]:
    """`name==version` of the packages in a report of pip, without torch's own, but with those of `keeps`."""
    found = (item["metadata"] for item in report["install"])
    names = {re.sub(r"[-_.]+", "-", each["name"]).lower(): each["version"] for each in found}
    return [f"{name}=={names[name]}" for name in sorted(names) if name in keeps or not OWN.match(name)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the wheels go")
    parser.add_argument("--python", default="3.12", help="version of the machine's Python")
    parser.add_argument("--torch", help="version of the machine's torch, which bounds what is resolved")
    parser.add_argument("--torchvision", action="store_true", help="also the torchvision of that torch")
    options = parser.parse_args()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wanted = [*PACKAGES, *(["torchvision"] if options.torchvision else [])]
    wanted += [f"torch=={options.torch}"] if options.torch else []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        resolving = ["install", "--dry-run", "--quiet", "--ignore-installed", f"--target={folder}/none"]
        subprocess.run(
            [*pip, *resolving, f"--report={report}", *platform_options(options.python), *wanted], check=True
        )
        pins = pins_of(json.loads(report.read_text()), {"torchvision"} if options.torchvision else set())
    downloading = ["download", "--no-deps", f"--dest={options.folder}", *platform_options(options.python)]
    subprocess.run([*pip, *downloading, *pins], check=True)


if __name__ == "__main__":
    main()
