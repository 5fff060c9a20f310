"""The profile says what a model is made of, for every shape."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from engrain.model.testing import tiny_model
from tests.model.shapes import SHAPES


@pytest.mark.parametrize("shape", SHAPES)
def test_lora_targets_are_linear_modules_that_peft_takes(shape: str) -> None:
    architecture, options = SHAPES[shape]
    loaded = tiny_model(architecture, **options)
    profile = loaded.profile
    modules = dict(loaded.model.named_modules())
    assert profile.lora_targets
    for target in profile.lora_targets:
        assert modules[target].weight.dim() == 2
        assert target.startswith(profile.layers_path + ".")
    skipped = {path for path, _ in profile.skipped}
    assert not skipped & set(profile.lora_targets)
    wrapped = get_peft_model(
        loaded.model,
        LoraConfig(
            r=2,
            target_modules=list(profile.lora_targets),
            fan_in_fan_out=architecture == "gpt2",
        ),
    )
    trained = {
        name.removeprefix("base_model.model.").split(".lora_")[0]
        for name, parameter in wrapped.named_parameters()
        if parameter.requires_grad
    }
    assert trained == set(profile.lora_targets)


@pytest.mark.parametrize("shape", SHAPES)
def test_profile_is_json_ready_and_under_a_million(shape: str) -> None:
    architecture, options = SHAPES[shape]
    profile = tiny_model(architecture, **options).profile
    assert profile.parameters < 1_000_000
    assert json.loads(json.dumps(profile.to_dict()))["parameters"] == profile.parameters


def test_tied_and_untied() -> None:
    tied, untied = tiny_model("llama"), tiny_model("llama", tied=False)
    assert tied.profile.tied and not untied.profile.tied
    assert len(untied.weights()) == len(tied.weights()) + 1
    assert tied.profile.embedding == "model.embed_tokens"
    assert tied.profile.lm_head == "lm_head"
    assert "lm_head.weight" not in tied.weights()
    assert "lm_head.weight" in untied.weights()


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_kv_heads_from_the_modules(kv_heads: int) -> None:
    profile = tiny_model("qwen3", kv_heads=kv_heads).profile
    assert profile.kv_heads == kv_heads
    assert {layer.heads for layer in profile.layers} == {4}
    assert {layer.head_dim for layer in profile.layers} == {16}


def test_sliding_windows() -> None:
    assert tiny_model("llama").profile.sliding_windows == (None, None)
    assert tiny_model("qwen3", sliding_window=8).profile.sliding_windows == (8, None)
    assert tiny_model("mistral", sliding_window=9).profile.sliding_windows == (9, 9)
    assert tiny_model("gemma3", sliding_window=8).profile.sliding_windows == (8, None)


def test_shared_keys_and_values() -> None:
    profile = tiny_model("gemma4").profile
    assert [layer.kv_owner for layer in profile.layers] == [0, 1, 0, 1]
    assert profile.kv_suppliers == (0, 1)
    assert profile.cache_kind == "shared" and not profile.cache_croppable
    names = "\n".join(tiny_model("gemma4").weights())
    assert "layers.1.self_attn.k_proj" in names
    assert "layers.2.self_attn.k_proj" not in names


def test_states_can_not_be_cropped() -> None:
    profile = tiny_model("lfm2").profile
    assert profile.cache_kind == "state" and not profile.cache_croppable
    assert [layer.attention for layer in profile.layers] == ["linear", "full"]
    assert not any(".conv." in path for path in profile.lora_targets)
    assert any(".conv." in path for path, _ in profile.skipped)


def test_experts_and_routers_are_left_out_and_reported() -> None:
    profile = tiny_model("qwen3_moe").profile
    assert not any("mlp" in path for path in profile.lora_targets)
    assert any("experts" in path for path, _ in profile.skipped)
    assert {layer.feed_forward for layer in profile.layers} == {"experts"}


def test_only_the_text_tower() -> None:
    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = tiny_model("llama").model
            self.vision_tower = torch.nn.ModuleDict(
                {"layers": torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(9))}
            )
            self.language_model = inner
            self.config = inner.config

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.language_model.get_input_embeddings()

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.language_model.get_output_embeddings()

    from engrain.model.profile import profile_model

    profile = profile_model(Both())
    assert profile.layers_path == "language_model.model.layers"
    assert len(profile.lora_targets) == 14
