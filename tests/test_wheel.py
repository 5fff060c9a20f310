"""What an installed engrain holds: lessons zero go with the wheel, and are found there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import engrain
from engrain.errors import UsageError
from engrain.lesson import zero

ROOT = Path(__file__).parent.parent
MANNERS = ROOT / "src" / "engrain" / "lesson" / "manners"
LESSON = zero.Portable("ab" * 32, {"name": "chat"}, {"tokens": 12}, b"an adapter")


def in_a_wheel(root: Path) -> set[str]:
    """The files that a wheel of the tree holds, by the project's own rules."""
    pytest.importorskip("hatchling", reason="it comes with the extra 'dev'")
    from hatchling.builders.wheel import WheelBuilder

    return {file.distribution_path for file in WheelBuilder(str(root)).recurse_included_files()}


def test_a_lesson_zero_is_found_in_an_installed_wheel(tmp_path: Path) -> None:
    tree, site = tmp_path / "tree", tmp_path / "site-packages"
    for name in ("pyproject.toml", ".gitignore", "README.md", "LICENSE", "NOTICE"):
        (tree / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    heavy = shutil.ignore_patterns("__pycache__", "*.so", "*.safetensors", "*.json*", "*.lesson")
    shutil.copytree(Path(engrain.__file__).parent, tree / "src" / "engrain", ignore=heavy)
    file = zero.ship(LESSON, tree / "src" / "engrain" / "lesson" / "manners")
    names = in_a_wheel(tree)
    assert f"engrain/lesson/manners/{file.name}" in names
    for name in names:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / "src" / name, site / name)
    program = (
        "import sys\nfrom engrain.lesson import zero\n"
        "found = zero.shipped(sys.argv[1])\n"
        "print(zero.__file__, found and dict(found.card), zero.shipped('cd' * 32))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, LESSON.base_digest],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    place, _, said = done.stdout.partition(" ")
    assert Path(place).is_relative_to(site)
    assert said.strip() == "{'tokens': 12} None"


def test_a_file_of_another_base_with_the_same_beginning_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero.ship(LESSON, tmp_path / "manners")
    monkeypatch.setattr(zero.resources, "files", lambda package: tmp_path)
    assert zero.shipped(LESSON.base_digest) == LESSON
    assert zero.shipped(LESSON.base_digest[:16] + "0" * 48) is None


def test_a_lesson_that_is_too_large_is_not_written(tmp_path: Path) -> None:
    large = zero.Portable("ab" * 32, {}, {}, bytes(zero.LARGEST))
    with pytest.raises(UsageError, match=r"16\.0 MB; at most 16") as caught:
        zero.ship(large, tmp_path / "manners")
    assert "rank" in caught.value.remedy and not (tmp_path / "manners").exists()


def test_the_lessons_of_the_package_are_small_whole_and_rightly_named() -> None:
    for file in MANNERS.glob("*") if MANNERS.is_dir() else ():
        assert file.suffix == ".lesson" and file.stat().st_size <= zero.LARGEST
        lesson = zero.Portable.from_bytes(file.read_bytes())
        assert zero.file_name(lesson.base_digest) == file.name
