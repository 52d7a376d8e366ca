"""The source distribution holds what git holds, and is made without PyTorch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import robustdml_ext

ROOT = Path(__file__).parents[1]
# What setuptools adds of its own.
METADATA = re.compile(r"PKG-INFO|setup\.cfg|robustdml_ext\.egg-info/.*")


def tracked() -> set[str]:
    """Files that git knows of, that are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made from copies of the tracked files, beside what a build leaves behind, where `import torch` fails."""
    work = tmp_path_factory.mktemp("sdist")
    checkout, trap = work / "checkout", work / "trap"
    for name in tracked():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    for left in ("lib/librobustdml_cpu_default.so", "__pycache__/run.cpython-311.pyc", "ops/__pycache__/x.pyc"):
        (checkout / "robustdml_ext" / left).parent.mkdir(parents=True, exist_ok=True)
        (checkout / "robustdml_ext" / left).write_bytes(b"left behind")
    trap.mkdir()
    (trap / "torch.py").write_text("raise ImportError('the version is to be read without PyTorch')\n")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--skip-dependency-check", "-o", str(work)]
    built = subprocess.run(
        command, cwd=checkout, env={**os.environ, "PYTHONPATH": str(trap)}, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return work / f"robustdml_ext-{robustdml_ext.__version__}.tar.gz"


def test_source_distribution_holds_what_git_holds(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert tracked() - names == set(), "missing: name them in MANIFEST.in"
    extra = {name for name in names - tracked() if not METADATA.fullmatch(name)}
    assert extra == set(), "left behind by a build: exclude them in MANIFEST.in"


def test_metadata(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        file = archive.extractfile(f"robustdml_ext-{robustdml_ext.__version__}/PKG-INFO")
        assert file is not None
        text = file.read().decode()
    assert f"\nVersion: {robustdml_ext.__version__}\n" in text
    assert "\nLicense-Expression: Apache-2.0\n" in text and "\nLicense-File: LICENSE\n" in text


def test_the_version_is_the_same_everywhere() -> None:
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None and citation[1] == robustdml_ext.__version__
    released = re.findall(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == robustdml_ext.__version__


def test_the_license_is_the_standard_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License\n                           Version 2.0, January 2004")
    assert "END OF TERMS AND CONDITIONS" in text and len(text) == 11358


def test_users_get_types() -> None:
    assert (ROOT / "robustdml_ext" / "py.typed").is_file()
