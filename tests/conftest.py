"""Every test runs offline, on one thread, in a home of its own, beside another process of tests."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch and transformers are imported: both read these once. One thread, also of what a
# home asks for and in processes that tests start; where a test asks for more, they sleep while
# they wait: two processes whose threads spin for the same cores take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A model of the catalogue comes through pip where the hub can't be reached.
os.environ["PIP_NO_INDEX"] = "1"

import pytest
from hypothesis import settings

# How long an example takes says something about the machine and what else it does.
settings.register_profile("engrain", settings(), deadline=None)
settings.load_profile("engrain")


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
