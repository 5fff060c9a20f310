"""Homes that are made once and copied: every test has its own, and none waits for a training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engrain.home import Home
from engrain.lesson import cost
from engrain.lesson import folder as module
from engrain.lesson.pace import Pace
from engrain.model.threads import set_threads
from tests.home.home_tools import examples_file, new_home, open_home, save_model

Opened = Callable[..., Home]

_loaded: dict[str, Any] = {}


def _load_once(resolved: Any, source: str | None = None) -> Any:
    """The model as it was loaded first: reading it from the disk again takes longer than a test."""
    name = source or resolved.config.model.source
    if name not in _loaded:
        _loaded[name] = _really_load(resolved, source)
    # Loading sets the threads that a home's settings ask for, and they decide the last bits.
    set_threads(resolved.config.model.threads or None)
    _loaded[name].reset()
    return _loaded[name]


_really_load = module.load


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One load of a model a session, and no timing of the machine."""
    monkeypatch.setattr(module, "load", _load_once)
    _known_speed(monkeypatch)


def _known_speed(patch: pytest.MonkeyPatch) -> None:
    pace = Pace(1e-12, 1e-12, 1e-12, 1e-12, 1e-12)
    patch.setattr(cost, "kept_pace", lambda *_: pace)
    patch.setattr(cost, "calibrate", lambda *_: 1e-13)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights."""
    return save_model(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session")
def taught_folder(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A home with three lessons."""
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load", _load_once)
        _known_speed(patch)
        with new_home(folder / "home", model) as home:
            for number in (1, 2, 3):
                assert home.learn(examples_file(folder, number)).accepted
    return folder / "home"


@pytest.fixture
def reopen(taught_folder: Path, tmp_path: Path) -> Iterator[Opened]:
    """Opens a copy of the home with three lessons, again and again."""
    folder = tmp_path / "taught"
    shutil.copytree(taught_folder, folder)
    opened: list[Home] = []

    def opening(**overrides: Any) -> Home:
        opened.append(open_home(folder, **overrides))
        return opened[-1]

    yield opening
    for home in opened:
        home.close()


@pytest.fixture
def taught(reopen: Opened) -> Home:
    """A home with three lessons."""
    return reopen()
