"""GGUF that the project writes: read back it is the same model, and llama.cpp's layout is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from engrain.errors import ExportError
from engrain.model.gguf import METADATA_FILE, convert, read_config
from engrain.model.gguf_file import GGUFFile
from engrain.model.gguf_tokenizer import COMPOSED, RULES, WHOLE_PIECES, splitter, write_tokenizer
from engrain.model.gguf_vocabulary import vocabulary
from engrain.model.gguf_write import write_adapter, write_model
from engrain.model.loading import load_model
from engrain.model.testing import byte_tokenizer, save_tiny, tiny_model
from tests.model.gguf_files import random_model, write
from tests.model.test_gguf import FAMILIES, IDS, logits

TEXTS = (
    "Grüße, 12345 wollen!\n\n\tx 😀  end",
    "I'm what they've said: don't. 3.14 \r\n été e\u0301te\u0301",
    "<|im_start|>user\nhi<|im_end|>\n",
)


@pytest.fixture(autouse=True)
def models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAIN_MODELS", str(tmp_path / "models"))


def saved(folder: Path, made: Any) -> Any:
    """A random model as one that was loaded from a folder."""
    made.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return load_model(str(folder))


def stored(path: Path, name: str) -> torch.Tensor:
    return torch.cat(list(GGUFFile(path).read(name)))


# Models


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_model_comes_back(family: str, tied: bool, tmp_path: Path) -> None:
    if family == "gemma3" and not tied:
        pytest.skip("Gemma ties always")
    loaded = saved(tmp_path / "a", random_model(family, tied=tied))
    write_model(tmp_path / "a.gguf", loaded, about={"engrain.state": "ab"})
    again = load_model(str(tmp_path / "a.gguf"))
    ours = loaded.weights()
    for name, tensor in again.weights().items():
        # f16 keeps three bits more than bf16, and bf16 is what is read back.
        assert torch.allclose(tensor, ours[name], rtol=2**-7, atol=1e-6), name
    assert torch.allclose(logits(again.model), logits(loaded.model), atol=0.05)
    assert (again.stop_ids, again.pad_id, again.profile.tied) == ((0, 2), 3, loaded.profile.tied)
    metadata = GGUFFile(tmp_path / "a.gguf").metadata
    assert metadata["engrain.state"] == "ab" and metadata["general.file_type"] == 1
    for text in TEXTS:
        assert again.tokenizer(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template


@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_it_is_near(family: str, tmp_path: Path) -> None:
    loaded = saved(tmp_path / "a", random_model(family))
    write_model(tmp_path / "a.gguf", loaded, quant="q8_0")
    file = GGUFFile(tmp_path / "a.gguf")
    kinds = {t.kind for t in file.tensors.values() if len(t.shape) == 2}
    assert kinds == {gguf.GGMLQuantizationType.Q8_0} and file.metadata["general.file_type"] == 7
    again = load_model(str(tmp_path / "a.gguf"))
    near = torch.nn.functional.cosine_similarity(logits(again.model), logits(loaded.model), dim=-1)
    assert float(near.min()) > 0.99


def test_rows_of_no_whole_block_stay_f16(tmp_path: Path) -> None:
    odd = saved(tmp_path / "a", random_model("llama"))
    odd._parameters["model.layers.0.mlp.down_proj.weight"] = torch.nn.Parameter(torch.ones(64, 100))
    write_model(tmp_path / "a.gguf", odd, quant="q8_0")
    tensor = GGUFFile(tmp_path / "a.gguf").tensors["blk.0.ffn_down.weight"]
    assert (tensor.kind, tensor.shape) == (gguf.GGMLQuantizationType.F16, (64, 100))


def test_numbers_too_large_for_f16_are_refused(tmp_path: Path) -> None:
    loaded = saved(tmp_path / "a", random_model("llama"))
    with torch.no_grad():
        loaded.weights()["model.embed_tokens.weight"][3, 3] = 1e6
    with pytest.raises(ExportError, match="f16 can't hold"):
        write_model(tmp_path / "a.gguf", loaded)


def test_other_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'gpt2' is not written") as caught:
        write_model(tmp_path / "a.gguf", tiny_model("gpt2"))
    assert "qwen2" in caught.value.remedy


def test_a_window_that_llama_cpp_would_not_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="looks back only 8 tokens"):
        write_model(tmp_path / "a.gguf", tiny_model("qwen2", sliding_window=8))


def test_llama_3_positions_go_and_come(tmp_path: Path) -> None:
    loaded = tiny_model("llama")
    loaded.model.config.rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    write_model(tmp_path / "a.gguf", loaded)
    found = read_config(GGUFFile(tmp_path / "a.gguf"))["rope_parameters"]
    assert found == loaded.model.config.rope_parameters


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
        {
            "rope_type": "yarn",
            "rope_theta": 5000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 256,
        },
    ],
)
def test_scaled_positions_go_and_come(rope: dict[str, Any], tmp_path: Path) -> None:
    loaded = tiny_model("qwen2")
    loaded.model.config.rope_parameters = rope
    write_model(tmp_path / "a.gguf", loaded)
    assert read_config(GGUFFile(tmp_path / "a.gguf"))["rope_parameters"] == rope


# Metadata of a file that it came from


def test_the_metadata_of_the_file_is_copied(tmp_path: Path) -> None:
    first = write(
        tmp_path / "first.gguf", random_model("qwen2"), general__licence="free", x__y="kept"
    )
    loaded = load_model(str(first))
    folder = next((tmp_path / "models").glob("gguf-*"))
    assert GGUFFile(folder / METADATA_FILE).tensors == {}
    write_model(tmp_path / "second.gguf", loaded, folder=folder)
    one, two = GGUFFile(first), GGUFFile(tmp_path / "second.gguf")
    own = {"general.file_type", "general.quantization_version"}
    assert {k: v for k, v in two.metadata.items() if k not in own} == {
        k: v for k, v in one.metadata.items() if k not in own
    }
    assert all(two.kinds[key] == kind for key, kind in one.kinds.items() if key not in own)
    again = load_model(str(tmp_path / "second.gguf"))
    assert torch.allclose(logits(again.model), logits(loaded.model), atol=1e-4)


def test_llama_cpp_s_own_reader_reads_it(tmp_path: Path) -> None:
    loaded = saved(tmp_path / "a", random_model("qwen3"))
    write_model(tmp_path / "a.gguf", loaded, quant="q8_0", name="a")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert {tensor.name for tensor in reader.tensors} >= {
        "token_embd.weight",
        "blk.1.attn_k.weight",
    }
    tokens = reader.fields["tokenizer.ggml.tokens"]
    assert len(tokens.data) == loaded.profile.vocab_size
    field = reader.fields["tokenizer.ggml.token_type"]
    types = [int(field.parts[place][0]) for place in field.data]
    assert types[:4] == [3] * 4 and types[-4:] == [5] * 4


# Tokenizers


def trained(rule: str) -> Any:
    """A tokenizer that splits by a rule, with merges of its own."""
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(ignore_merges=rule in WHOLE_PIECES))
    core.pre_tokenizer = splitter(rule)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=alphabet,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    core.train_from_iterator(["that is what it was: 1234 thin things don't\n\n"] * 4, trainer)
    if rule in COMPOSED:
        core.normalizer = normalizers.NFC()
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>")


def come_back(tokenizer: Any, folder: Path, rows: int = 420) -> Any:
    from transformers import AutoTokenizer

    metadata = {key: value for key, value, *_ in vocabulary(tokenizer, rows, (1,))}
    assert len(metadata["tokenizer.ggml.tokens"]) == rows
    folder.mkdir()
    write_tokenizer(metadata, folder, "a")
    return AutoTokenizer.from_pretrained(folder), metadata


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_splitting_has_its_name(rule: str, tmp_path: Path) -> None:
    tokenizer = trained(rule)
    again, metadata = come_back(tokenizer, tmp_path / "a")
    named = metadata["tokenizer.ggml.pre"]
    assert RULES[named] == RULES[rule] and (named in WHOLE_PIECES) == (rule in WHOLE_PIECES)
    assert len(metadata["tokenizer.ggml.merges"]) > 10
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"], rule


def test_pocket_s_tokenizer_goes_and_comes(tmp_path: Path) -> None:
    loaded = load_model("pocket")
    again, metadata = come_back(loaded.tokenizer, tmp_path / "a", loaded.profile.vocab_size)
    assert metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert metadata["tokenizer.ggml.eos_token_id"] == 2
    for text in TEXTS:
        assert again(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]


def test_a_way_of_splitting_without_a_name_is_refused() -> None:
    tokenizer = trained("gpt-2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ExportError, match="has no name there") as caught:
        vocabulary(tokenizer, 420, ())
    assert "transformers" in caught.value.remedy


def test_pieces_with_scores_go_and_come(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    words = ("▁th", "▁the", "he", "in", "ing", "▁i", "is", "▁is", "th", "▁t")
    letters = ("▁", *"abcdefghijklmnopqrstuvwxyz")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters, *words]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(letters) + len(words))]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [
            *[0.0] * 259,
            *[-1000.0] * len(letters),
            *(-float(i) for i in range(len(words))),
        ],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    (tmp_path / "one").mkdir()
    write_tokenizer(metadata, tmp_path / "one", "a")
    first = AutoTokenizer.from_pretrained(tmp_path / "one")
    again, told = come_back(first, tmp_path / "two", len(pieces))
    assert told["tokenizer.ggml.token_type"] == kinds and told["tokenizer.ggml.add_bos_token"]
    assert told["tokenizer.ggml.add_space_prefix"]
    for text in ("this is the thing in things", "Ü is ing", "the  the"):
        assert again(text)["input_ids"] == first(text)["input_ids"]


# Adapters


def test_an_adapter_on_the_base_s_file_gives_the_merged_one(tmp_path: Path) -> None:
    made = random_model("llama")
    loaded = saved(tmp_path / "a", made)
    write_model(tmp_path / "base.gguf", loaded)
    torch.manual_seed(0)
    shapes = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "mlp.up_proj": (128, 64)}
    factors = {
        f"model.layers.0.{part}": (torch.randn(2 + i, inner) / 8, torch.randn(outer, 2 + i) / 8)
        for i, (part, (outer, inner)) in enumerate(shapes.items())
    }
    write_adapter(tmp_path / "lora.gguf", loaded, factors, name="a")
    with torch.no_grad():
        for module, (low, high) in factors.items():
            loaded.weights()[f"{module}.weight"].add_(high @ low)
    write_model(tmp_path / "merged.gguf", loaded)
    file = GGUFFile(tmp_path / "lora.gguf")
    assert file.metadata["general.type"] == "adapter"
    assert file.metadata["adapter.type"] == "lora" and file.metadata["adapter.lora.alpha"] == 4.0
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.ffn_up.weight"):
        low, high = (stored(tmp_path / "lora.gguf", f"{name}.lora_{x}") for x in "ab")
        assert low.shape[0] == high.shape[1] == 4, "llama.cpp scales by alpha over rank"
        expected = stored(tmp_path / "base.gguf", name) + high @ low
        assert torch.allclose(stored(tmp_path / "merged.gguf", name), expected, atol=2e-3), name


def test_a_converted_folder_keeps_the_head_of_its_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", random_model("llama"))
    (tmp_path / "b").mkdir()
    convert(file, tmp_path / "b")
    head = GGUFFile(tmp_path / "b" / METADATA_FILE)
    assert head.metadata == GGUFFile(file).metadata and head.tensors == {}
    assert json.loads((tmp_path / "b" / "config.json").read_text())["model_type"] == "llama"


def test_saved_models_are_told_apart(tmp_path: Path) -> None:
    """No file of another model is copied where a folder has none of its own."""
    folder = save_tiny(tiny_model("llama"), tmp_path / "a")
    write_model(tmp_path / "a.gguf", load_model(str(folder)), folder=folder, name="tiny")
    metadata = GGUFFile(tmp_path / "a.gguf").metadata
    assert metadata["general.name"] == "tiny" and metadata["llama.context_length"] == 512
    assert IDS.numel() < metadata["llama.context_length"]
