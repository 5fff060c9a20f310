"""LoRA: which layers it changes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engrain.learn.architecture import lora as module
from engrain.learn.architecture.lora import Lora, LoraConfig, product
from engrain.learn.fold import fold, fold_into
from engrain.learn.learner import Learner
from engrain.learn.technique import Setting
from engrain.learn.testing import check_technique, recipe_with, sample_lesson
from engrain.model import kernels
from engrain.model.digest import tensor_digest
from engrain.model.loading import load_model
from engrain.model.testing import save_tiny, tiny_model


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_the_highest_layers_are_changed(share: float) -> None:
    loaded = tiny_model("llama")
    count = loaded.model.config.num_hidden_layers
    assert count >= 2
    lora = Lora(LoraConfig(layers=share))
    setting = Setting(loaded, sample_lesson())
    lora.attach(setting)
    changed = {int(name.split(".layers.")[1].split(".")[0]) for name in lora.parameters()}
    stored = lora.adapter().nbytes
    lora.detach()
    wanted = max(1, round(share * count))
    assert changed == set(range(count - wanted, count))
    assert stored == lora.storage_bytes(setting)


@pytest.mark.parametrize("architecture", ["lora", "full"])
def test_folded_into_a_model_the_bits_are_those_of_the_fold(
    architecture: str, tmp_path: Path
) -> None:
    folder = str(save_tiny(tiny_model("llama"), tmp_path))
    loaded = load_model(folder, dtype="bfloat16")
    recipe = recipe_with("architecture", architecture)
    adapter = Learner(recipe).run(load_model(folder), sample_lesson()).adapter
    fold_into(loaded, adapter)
    expected = fold(loaded.base_weights(), [adapter])
    assert loaded.changed_since(expected) == [], (
        "rounded to the type of the model, as by set_weights"
    )
    assert loaded.changed_since(loaded.stored())
    # Straight from the stored bf16 it gives the bits of the fold of fp32 copies.
    assert {tensor.dtype for tensor in loaded.stored().values()} == {torch.bfloat16}
    straight = fold(loaded.stored(), [adapter], dtype=torch.float32)
    assert tensor_digest(straight) == tensor_digest(expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("architecture", ["lora", "switchlora", "sst"])
def test_it_folds_where_a_model_keeps_its_matrices_transposed(architecture: str) -> None:
    assert "folds_to_what_it_trained" in check_technique(
        "architecture", architecture, loaded=tiny_model("gpt2")
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 5), (300, 8, 41), (65, 16, 9000)])
def test_a_fold_has_the_bits_of_sums_in_order_on_any_processor(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rank, columns = shape
    torch.manual_seed(0)
    b, a = torch.randn(out, rank), torch.randn(rank, columns)
    calls: list[str] = []
    run = kernels.run
    monkeypatch.setattr(
        kernels, "run", lambda name, *given: (calls.append(name), run(name, *given))[1]
    )
    found = product(b, a)
    assert calls == ["engrain_low_rank"] * (kernels.library() is not None)
    torch.testing.assert_close(found, b @ a, rtol=1e-4, atol=1e-4)
    # The definition in another library, whose sums nobody orders anew.
    total = b.numpy()[:, :1] * a.numpy()[:1]
    for place in range(1, rank):
        total = total + b.numpy()[:, place : place + 1] * a.numpy()[place : place + 1]
    assert total.dtype == np.float32 and np.array_equal(found.numpy(), total)
    with kernels.without():
        assert torch.equal(product(b, a), found), "with the kernels and without them"
        monkeypatch.setattr(module, "FOLDED", 7)
        assert torch.equal(product(b, a), found), "however it is cut"
