import ast
import importlib
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import engrain

SOURCE = Path(engrain.__file__).parent
MODEL_LIBRARIES = {"torch", "transformers", "peft", "numpy", "matplotlib", "sqlalchemy", "typer"}


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_import_brings_no_heavy_library() -> None:
    loaded = set(python("import sys, engrain; print(*sys.modules)").split())
    assert not loaded & MODEL_LIBRARIES


@pytest.mark.parametrize("name", ["config", "errors", "data.messages", "data.lessons", "cli"])
def test_light_modules_bring_no_torch(name: str) -> None:
    loaded = set(python(f"import sys, engrain.{name}; print(*sys.modules)").split())
    assert not loaded & {"torch", "transformers", "peft"}


def test_import_takes_less_than_50_ms() -> None:
    clock = (
        "import time; before = time.process_time(); import engrain; "
        "print(time.process_time() - before)"
    )
    # Work, not time, and the median of several: one slow start says something about the machine.
    assert statistics.median(float(python(clock)) for _ in range(5)) < 0.05


@pytest.mark.parametrize("name", engrain.__all__)
def test_every_public_name_can_be_used_and_says_what_it_is(name: str) -> None:
    value = getattr(engrain, name)
    if callable(value):
        assert (value.__doc__ or "").strip()


def test_public_names_are_the_same_everywhere() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        (alias.name, node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == set(engrain._WHERE.items())
    assert set(engrain.__all__) == {*engrain._WHERE, "__version__"}
    assert set(dir(engrain)) == set(engrain.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Hoem'"):
        _ = engrain.Hoem


def test_typed_marker_is_in_the_package() -> None:
    assert (SOURCE / "py.typed").is_file()


def modules_with_examples() -> list[str]:
    return [
        ".".join(("engrain", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for path in sorted(SOURCE.rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_in_docstrings_run(module: str) -> None:
    import doctest

    assert doctest.testmod(importlib.import_module(module)).failed == 0
