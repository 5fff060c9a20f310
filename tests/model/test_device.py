"""Where a model runs: what is chosen, and that answers and lessons are the same there."""

from pathlib import Path

import pytest
import torch

from engrain.data.messages import Message
from engrain.errors import ModelError
from engrain.learn.learner import Learner
from engrain.learn.testing import recipe_with, sample_lesson
from engrain.model.engine import Engine
from engrain.model.hardware import choose_device
from engrain.model.loading import load_model
from engrain.model.testing import save_tiny, tiny_model

ASKED = [[Message("user", "hello"), Message("assistant", "yes"), Message("user", "and now?")]]
ANY = next(
    (
        name
        for name, there in (
            ("cuda", torch.cuda.is_available()),
            ("mps", torch.backends.mps.is_available()),
        )
        if there
    ),
    "",
)
needs_one = pytest.mark.skipif(not ANY, reason="no accelerator here")


def test_auto_takes_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"cuda": True, "mps": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: found["mps"])
    assert choose_device() == "cuda" and choose_device("mps") == "mps"
    assert choose_device("cuda:1") == "cuda:1"
    found["cuda"] = False
    assert choose_device() == "mps"
    found["mps"] = False
    assert choose_device() == "cpu"


@pytest.mark.parametrize("device", ["cuda", "mps", "tpu", ""])
def test_a_device_that_is_not_here(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ModelError, match="no device") as caught:
        load_model("pocket", device=device)
    assert "model.device" in caught.value.remedy


@pytest.mark.gpu
@needs_one
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3"])
def test_answers_are_the_same_there(architecture: str, tmp_path: Path) -> None:
    folder = str(save_tiny(tiny_model(architecture), tmp_path / "model"))
    here, there = load_model(folder), load_model(folder, device="auto")
    assert there.device.type == ANY and there.base_digest == here.base_digest
    assert there.changed_since(here.weights()) == []
    assert Engine(there).generate(ASKED, max_new_tokens=8) == Engine(here).generate(
        ASKED, max_new_tokens=8
    )
    there.set_weights({name: tensor + 1 for name, tensor in there.base_weights().items()})
    there.reset()
    assert there.weights_digest() == here.weights_digest()


@pytest.mark.gpu
@needs_one
@pytest.mark.parametrize("representation", ["full_context", "context_frozen"])
def test_a_lesson_is_learned_there(representation: str, tmp_path: Path) -> None:
    folder = str(save_tiny(tiny_model(), tmp_path / "model"))
    loaded = load_model(folder, device="auto")
    recipe = recipe_with("representation", representation)
    result = Learner(recipe).run(loaded, sample_lesson())
    assert result.adapter.nbytes > 0 and loaded.changed_since(loaded.stored()) == []
