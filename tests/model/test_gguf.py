"""GGUF: the converted model is the one that was written, and no bad file does harm."""

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from engrain.data.messages import Message
from engrain.errors import CorruptModelError, ModelError, ModelNotFoundError, UnsupportedModelError
from engrain.model import catalogue
from engrain.model.engine import Engine
from engrain.model.gguf import convert
from engrain.model.gguf_file import GGUFFile
from engrain.model.gguf_tokenizer import RULES, write_tokenizer
from engrain.model.loading import load_model
from tests.model.gguf_files import Q8_0, random_model, write

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
IDS = torch.tensor([[5, 80, 3, 200, 77, 9, 13, 44, 250, 17, 6, 21]])


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGRAIN_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits.float()


# What comes out


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_model_comes_back(family: str, tied: bool, tmp_path: Path) -> None:
    if family == "gemma3" and not tied:
        pytest.skip("Gemma ties always")
    made = random_model(family, tied=tied)
    loaded = load_model(str(write(tmp_path / "a.gguf", made)))
    assert torch.allclose(logits(loaded.model), logits(made), atol=1e-4)
    ours, theirs = loaded.weights(), dict(made.named_parameters())
    assert set(ours) == set(theirs) and loaded.profile.tied == tied
    for name, tensor in theirs.items():
        # Gemma's norms went through w + 1 and back, which bf16 does not always keep.
        bound = 1e-2 if family == "gemma3" and "norm" in name else 0
        assert float((ours[name] - tensor.detach()).abs().max()) <= bound, name
    assert (loaded.stop_ids, loaded.pad_id) == ((0, 2), 3)
    assert len(Engine(loaded).generate([[Message("user", "hello")]])) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_weights_are_near(family: str, tmp_path: Path) -> None:
    made = random_model(family)
    loaded = load_model(str(write(tmp_path / "a.gguf", made, kind=Q8_0)))
    for name, tensor in made.named_parameters():
        assert torch.allclose(loaded.weights()[name], tensor.detach(), atol=2e-2), name
    near = torch.nn.functional.cosine_similarity(logits(loaded.model), logits(made), dim=-1)
    assert float(near.min()) > 0.99


def test_text_and_template_are_those_of_the_file(tmp_path: Path) -> None:
    loaded = load_model(str(write(tmp_path / "a.gguf", random_model("llama"))))
    text = "Grüße, 12 3!\n\tx 😀"
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text.encode()) and loaded.tokenizer.decode(ids) == text
    shown = loaded.tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert shown == "<|im_start|>user\na<|im_end|>\n"
    assert loaded.tokenizer("<|im_end|>")["input_ids"] == [2]


def test_the_better_copy_of_a_tied_matrix_is_taken(tmp_path: Path) -> None:
    made = random_model("qwen2")
    best = made.model.embed_tokens.weight.detach()
    with torch.no_grad():
        made.model.embed_tokens.weight.copy_(best + 0.01 * torch.randn_like(best))
    loaded = load_model(str(write(tmp_path / "a.gguf", made, output=best)))
    assert loaded.profile.tied
    assert torch.equal(loaded.weights()["model.embed_tokens.weight"], best.bfloat16().float())


def test_another_output_matrix_is_kept_apart(tmp_path: Path) -> None:
    made = random_model("qwen2")
    other = torch.randn_like(made.model.embed_tokens.weight.detach())
    loaded = load_model(str(write(tmp_path / "a.gguf", made, output=other)))
    assert not loaded.profile.tied
    assert torch.equal(loaded.weights()["lm_head.weight"], other.bfloat16().float())


def test_conversion_is_the_same_to_the_bit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", random_model("qwen3"), kind=Q8_0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        convert(path, tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-6 and "transformers_version" not in config
    begin = int.from_bytes((tmp_path / "one" / "model.safetensors").read_bytes()[:8], "little")
    assert (begin + 8) % 64 == 0


def test_a_file_is_converted_once(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.gguf", random_model("llama"))
    first = load_model(str(path))
    assert first.source == str(path)
    folders = [item.name for item in models.iterdir() if not item.name.startswith(".")]
    assert len(folders) == 1 and folders[0].startswith("gguf-")
    monkeypatch.setattr("engrain.model.acquire.convert", lambda *_: pytest.fail("again"))
    moved = path.rename(tmp_path / "elsewhere.gguf")
    assert load_model(str(moved)).base_digest == first.base_digest


def test_a_changed_conversion_is_noticed(tmp_path: Path, models: Path) -> None:
    path = write(tmp_path / "a.gguf", random_model("llama"))
    load_model(str(path))
    weights = next(models.glob("gguf-*/model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CorruptModelError, match="not as they were made"):
        load_model(str(path))


def test_llama_3_frequencies_are_found_again(tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, head_dim=16, rope_parameters=scaling
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 10000.0 ** -(torch.arange(0, 16, 2) / 16)
    made = random_model("llama")
    path = tmp_path / "a.gguf"
    write_with_extra(path, made, "rope_freqs.weight", plain / scaled)
    (tmp_path / "out").mkdir()
    convert(path, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert found == scaling
    write_with_extra(path, made, "rope_freqs.weight", torch.linspace(1, 7, 8))
    with pytest.raises(UnsupportedModelError, match="frequencies of its own"):
        convert(path, tmp_path / "out")


def write_with_extra(path: Path, model: Any, name: str, tensor: torch.Tensor) -> None:
    from tests.model import gguf_files

    known, stored = gguf_files._tensors, gguf_files._stored
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf_files, "_tensors", lambda m: [*known(m), (name, tensor)])
        patch.setattr(gguf_files, "_stored", lambda p, f: p if p == name else stored(p, f))
        write(path, model)


# Tokenizers


def sentence_pieces(**changes: Any) -> dict[str, Any]:
    pieces = ["<pad>", "</s>", "<s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "a", "b", "c", "ab", "▁a", "▁ab", "abc"]
    kinds = [3, 3, 3, 2, *[6] * 256, *[1] * 8]
    scores = [*[0.0] * 260, -9.0, -9.0, -9.0, -9.0, -1.0, -2.0, -0.5, -3.0]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": True,
        **changes,
    }


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_pieces_join_by_score(prefix: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    metadata = sentence_pieces(**{"tokenizer.ggml.add_space_prefix": prefix})
    write_tokenizer(metadata, tmp_path, "a file")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("ab abc é")["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    first = ["▁ab"] if prefix else ["ab"]
    assert pieces == ["<s>", *first, "▁ab", "c", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab abc é"


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_gives_text_back(rule: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from engrain.model.testing import byte_tokenizer

    vocabulary = byte_tokenizer().get_vocab()
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": sorted(vocabulary, key=vocabulary.__getitem__),
    }
    write_tokenizer(metadata, tmp_path, "a file")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("It's 12345, é\n\n  x\t😀", "日本語 ١٢٣  end "):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer.ggml.model": "bert"}, "'bert'"),
        ({"tokenizer.ggml.tokens": []}, "no tokenizer"),
        ({"tokenizer.ggml.scores": []}, "without scores"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "new"}, "rule 'new'"),
    ],
)
def test_unknown_tokenizers(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        write_tokenizer(sentence_pieces(**changes), tmp_path, "a file")
    assert caught.value.remedy


# Bad input


def refused(path: Path, kind: type[ModelError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        load_model(str(path))
    assert type(caught.value) is kind and caught.value.remedy
    models = catalogue.cache_folder()
    assert not models.exists() or not [p for p in models.iterdir() if p.name[0] != "."]


def test_no_such_file(tmp_path: Path) -> None:
    refused(tmp_path / "no.gguf", ModelNotFoundError, "no file")


def test_not_gguf(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for content in (b"", b"GG", b"PK\x03\x04 and so on"):
        path.write_bytes(content)
        refused(path, CorruptModelError, "no GGUF file")


def test_another_version(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 9, 0, 0))
    refused(path, UnsupportedModelError, "version 9")


def test_cut_off_anywhere(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gguf", random_model("llama")).read_bytes()
    path = tmp_path / "a.gguf"
    for end in (8, 20, 100, 3000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        refused(path, CorruptModelError, "ends before")


def test_unknown_family(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", random_model("llama"), family="mamba")
    refused(path, UnsupportedModelError, "'mamba'")
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(str(path))
    assert "llama, qwen2, qwen3, gemma3" in caught.value.remedy


def test_experts(tmp_path: Path) -> None:
    made = random_model("llama")
    path = write(tmp_path / "a.gguf", made, **{"llama__expert_count": "8"})
    refused(path, UnsupportedModelError, "mixture of experts")


def test_unknown_quantisation(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", random_model("llama"), kind=Q8_0)
    data = path.read_bytes()
    place = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 16
    assert data[place : place + 4] == struct.pack("<I", Q8_0)
    for kind, words in ((777, "number 777"), (24, "as I8")):
        path.write_bytes(data[:place] + struct.pack("<I", kind) + data[place + 4 :])
        refused(path, UnsupportedModelError, words)


def test_a_missing_tensor(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", random_model("qwen2"), drop="blk.1.ffn_up.weight")
    refused(path, CorruptModelError, "blk.1.ffn_up.weight")
    path = write(tmp_path / "b.gguf", random_model("qwen2"), drop="token_embd.weight")
    refused(path, UnsupportedModelError, "token_embd")


def test_a_tensor_that_the_family_has_not(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_with_extra(path, random_model("llama"), "blk.0.ssm_a", torch.ones(8))
    refused(path, UnsupportedModelError, "ssm_a")


def test_damaged_headers_have_names(tmp_path: Path) -> None:
    """Whatever stands in the header, what is raised is ours, and nothing is kept."""
    whole = write(tmp_path / "whole.gguf", random_model("llama")).read_bytes()
    head = GGUFFile(tmp_path / "whole.gguf").tensors["token_embd.weight"].offset
    path, chance = tmp_path / "a.gguf", random.Random(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 1, 4))):
            data[chance.randrange(4, head)] = chance.randrange(256)
        path.write_bytes(data)
        (out := tmp_path / "out").mkdir(exist_ok=True)
        try:
            convert(path, out)
        except ModelError as error:
            assert error.remedy
