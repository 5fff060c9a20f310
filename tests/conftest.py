"""Every test runs offline, on one thread, in a home of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch and transformers are imported: both read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A model of the catalogue comes through pip where the hub can't be reached.
os.environ["PIP_NO_INDEX"] = "1"

import pytest


@pytest.fixture(autouse=True)
def own_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """An empty ENGRAIN_HOME, and neither configuration nor models of the machine that runs this.

    A writer that happens to be there would be taken by ``study.writer = auto``; the everyday model,
    the default, is on some machines and not on others.
    """
    for name in list(os.environ):
        if name.startswith("ENGRAIN_") and "__" in name:
            monkeypatch.delenv(name)
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setenv("ENGRAIN_MODELS", str(tmp_path / "no-models"))
    home = tmp_path / "home"
    monkeypatch.setenv("ENGRAIN_HOME", str(home))
    yield home
