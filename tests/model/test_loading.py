"""Loading: the same weights come back, and every way to fail has its name."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engrain.errors import (
    CorruptModelError,
    EngrainError,
    ModelError,
    ModelNotFoundError,
    NoChatTemplateError,
    TokenizerMismatchError,
    UnsupportedModelError,
)
from engrain.model import loaded as loaded_module
from engrain.model import loading, locate
from engrain.model.digest import tensor_digest
from engrain.model.engine import Engine
from engrain.model.loading import load_model, outline
from engrain.model.testing import save_tiny, tiny_model
from tests.model.shapes import SHAPES, random_prompts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tiny_model("llama"), tmp_path / "model")


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip(shape: str, tmp_path: Path) -> None:
    architecture, options = SHAPES[shape]
    made = tiny_model(architecture, **options)
    loaded = load_model(str(save_tiny(made, tmp_path / "model")))
    assert loaded.changed_since(made.weights()) == []
    assert loaded.weights_digest() == made.weights_digest()
    assert loaded.profile == made.profile
    assert (loaded.stop_ids, loaded.pad_id) == (made.stop_ids, made.pad_id) == ((2,), 3)
    prompts = random_prompts(3)
    assert Engine(loaded).generate(prompts) == Engine(made).generate(prompts)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_outline_is_that_of_the_loaded_model(shape: str, tmp_path: Path) -> None:
    architecture, options = SHAPES[shape]
    folder = str(save_tiny(tiny_model(architecture, **options), tmp_path / "model"))
    loaded = load_model(folder)
    found = outline(folder)
    assert found.profile == loaded.profile
    assert found.nbytes == sum(w.numel() * w.element_size() for w in loaded.weights().values())
    assert (found.dtype, found.max_length) == (loaded.dtype, loaded.max_length)
    assert found.tokenizer("x")["input_ids"] == loaded.tokenizer("x")["input_ids"]


def test_an_outline_reads_no_weights_and_fails_by_name(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights at all")
    assert outline(str(folder)).source == str(folder)
    with pytest.raises(ModelError, match="int3"):
        outline(str(folder), dtype="int3")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(NoChatTemplateError):
        outline(str(folder))
    edit(folder / "config.json", model_type="nonesuch")
    with pytest.raises(UnsupportedModelError):
        outline(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no safetensors"):
        outline(str(folder))
    with pytest.raises(ModelNotFoundError):
        outline("someone/never-cached")


def test_base_digest_is_that_of_the_file(folder: Path) -> None:
    before = load_model(str(folder)).base_digest
    assert before == tiny_model("llama").base_digest != tiny_model("llama", seed=1).base_digest
    edit(folder / "config.json", transformers_version="9.9")
    assert load_model(str(folder)).base_digest == before
    edit(folder / "config.json", rms_norm_eps=1e-3)
    assert load_model(str(folder)).base_digest != before


def test_base_digest_sees_one_bit(folder: Path) -> None:
    before = load_model(str(folder)).base_digest
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"].view(torch.int32)[3] ^= 1
    save_file(tensors, file, metadata={"format": "pt"})
    assert load_model(str(folder)).base_digest != before


def test_sharded_weights_give_the_same_model(tmp_path: Path) -> None:
    made = tiny_model("qwen3", tied=False)
    made.model.save_pretrained(tmp_path, max_shard_size="100KB")
    made.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = load_model(str(tmp_path))
    assert loaded.changed_since(made.weights()) == []
    assert loaded.base_digest == made.base_digest
    next(tmp_path.glob("model-00001*")).unlink()
    with pytest.raises(ModelNotFoundError, match="weight files"):
        load_model(str(tmp_path))


def test_bfloat16(folder: Path) -> None:
    loaded = load_model(str(folder), dtype="bfloat16")
    assert {tensor.dtype for tensor in loaded.weights().values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in loaded.base_weights().values()} == {torch.float32}
    assert loaded.changed_since(loaded.base_weights()) == []
    assert len(Engine(loaded).generate(random_prompts(3))) == 3
    with pytest.raises(ModelError, match="float16"):
        load_model(str(folder), dtype="float16")


@pytest.mark.parametrize("shape", ["llama-tied", "llama-untied", "gemma3-sliding"])
def test_set_weights_copies_in_place_and_keeps_tying(shape: str) -> None:
    architecture, options = SHAPES[shape]
    loaded = tiny_model(architecture, **options)
    base, digest = loaded.base_weights(), loaded.weights_digest()
    places = {name: tensor.data_ptr() for name, tensor in loaded.weights().items()}
    loaded.set_weights({name: tensor + 1 for name, tensor in base.items()})
    assert sorted(loaded.changed_since(base)) == sorted(base)
    assert {name: t.data_ptr() for name, t in loaded.weights().items()} == places
    tied = loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert tied == loaded.profile.tied
    loaded.reset()
    assert loaded.changed_since(base) == [] and loaded.weights_digest() == digest


def test_the_base_can_not_be_changed_from_outside() -> None:
    loaded = tiny_model()
    digest = loaded.weights_digest()
    loaded.base_weights()["model.norm.weight"].zero_()
    loaded.weights()["model.norm.weight"].zero_()
    assert loaded.changed_since(loaded.base_weights()) == ["model.norm.weight"]
    loaded.reset()
    assert loaded.weights_digest() == digest


def test_base_is_kept_as_bf16_only_where_that_is_exact(tmp_path: Path) -> None:
    made = tiny_model()
    made.model.to(torch.bfloat16)
    made.model.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert {tensor.dtype for tensor in loaded._base.values()} == {torch.bfloat16}
    assert loaded.changed_since(loaded.base_weights()) == []
    kept = tiny_model()._base["model.embed_tokens.weight"]
    assert kept.dtype == torch.float32


def test_weights_that_do_not_fit_change_nothing() -> None:
    loaded = tiny_model()
    base, digest = loaded.base_weights(), loaded.weights_digest()
    wrong = {name: tensor + 1 for name, tensor in base.items()}
    some = dict(list(wrong.items())[:-1])
    for weights in (
        some,
        {**wrong, "more": torch.ones(1)},
        {**wrong, "model.norm.weight": base["model.norm.weight"][:3]},
    ):
        with pytest.raises(ModelError, match="do not fit"):
            loaded.set_weights(weights)
    assert loaded.weights_digest() == digest


def test_names_stay_when_modules_are_wrapped() -> None:
    from peft import LoraConfig, get_peft_model

    loaded = tiny_model()
    names, digest, revision = list(loaded.weights()), loaded.weights_digest(), loaded.revision
    get_peft_model(loaded.model, LoraConfig(r=2, target_modules=list(loaded.profile.lora_targets)))
    assert list(loaded.weights()) == names and loaded.weights_digest() == digest
    assert loaded.revision != revision


def test_clone_is_apart() -> None:
    loaded = tiny_model()
    twin = loaded.clone()
    assert twin.weights_digest() == loaded.weights_digest()
    twin.set_weights({name: tensor + 1 for name, tensor in twin.base_weights().items()})
    assert loaded.changed_since(loaded.base_weights()) == []
    assert twin.model.get_output_embeddings().weight is twin.model.get_input_embeddings().weight


def test_revision_sees_every_write() -> None:
    loaded = tiny_model()
    seen = {loaded.revision}
    assert {loaded.revision} == seen
    loaded.reset()
    assert {loaded.revision} == seen, "nothing was written: all was as it shall be"
    loaded.set_weights({name: tensor + 1 for name, tensor in loaded.base_weights().items()})
    seen.add(loaded.revision)
    with torch.no_grad():
        next(loaded.model.parameters()).add_(0.0)
    seen.add(loaded.revision)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-5, fused=True)
    for parameter in loaded.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    seen.add(loaded.revision)
    assert len(seen) == 4


# Bad input


def check(error: type[EngrainError], match: str, source: Path | str, **options: object) -> None:
    with pytest.raises(error, match=match) as caught:
        load_model(str(source), **options)  # type: ignore[arg-type]
    assert caught.value.remedy
    assert type(caught.value) is error


def test_no_such_model(tmp_path: Path) -> None:
    check(ModelNotFoundError, "no model folder", tmp_path / "nothing")
    check(ModelNotFoundError, "no model folder", "./nothing")
    check(ModelNotFoundError, "no model folder", "a name with spaces")
    check(ModelNotFoundError, "on this machine", "someone/no-such-model", local_only=True)
    check(ModelNotFoundError, "hub did not give it", "someone/no-such-model")


def test_a_file_is_not_a_model(folder: Path) -> None:
    check(ModelNotFoundError, "no model folder", folder / "model.safetensors")


def test_pocket(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "POCKET_FOLDER", tmp_path / "empty")
    monkeypatch.delenv("ENGRAIN_POCKET", raising=False)
    check(ModelNotFoundError, "pocket", "pocket")
    monkeypatch.setenv("ENGRAIN_POCKET", str(folder))
    assert load_model().source == "pocket"


def test_missing_and_broken_config(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text("{")
    check(ModelError, "can't be read", folder)
    config.write_bytes(b"\xff\xfe")
    check(ModelError, "can't be read", folder)
    config.write_text("[]")
    check(UnsupportedModelError, "model_type", folder)
    config.unlink()
    check(ModelNotFoundError, "no config.json", folder)
    (folder / "adapter_config.json").write_text("{}")
    check(ModelNotFoundError, "an adapter", folder)


def test_unknown_architecture(folder: Path) -> None:
    edit(folder / "config.json", model_type="made-up")
    check(UnsupportedModelError, "does not know", folder)


def test_code_of_the_model_is_never_run(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran')\nclass C: pass\n")
    edit(
        folder / "config.json",
        model_type="made-up",
        auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"},
    )
    check(UnsupportedModelError, "architecture", folder)


@pytest.mark.parametrize("damage", ["cut", "header", "empty"])
def test_corrupt_weights(folder: Path, damage: str) -> None:
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes({"cut": raw[:-100], "header": b"\xff" * 64 + raw[64:], "empty": b""}[damage])
    check(CorruptModelError, "corrupt", folder)


def test_a_checkpoint_that_lacks_tensors(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    check(ModelError, "lack 1 tensors", folder)


def test_shapes_that_contradict_the_config(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=96)
    check(ModelError, "can't be loaded", folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    check(ModelError, "pickled", folder)
    (folder / "pytorch_model.bin").unlink()
    check(ModelError, "no safetensors", folder)


def test_tokenizer_that_does_not_belong(folder: Path) -> None:
    small = tiny_model("llama")
    small.tokenizer.add_tokens([f"<more{i}>" for i in range(20)])
    small.tokenizer.save_pretrained(folder)
    check(TokenizerMismatchError, "up to 279", folder)


def test_tokenizer_missing_or_broken(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    check(TokenizerMismatchError, "can't be loaded", folder)
    (folder / "tokenizer.json").unlink()
    check(TokenizerMismatchError, "okenizer", folder)


def test_no_chat_template(tmp_path: Path) -> None:
    made = tiny_model("llama", chat_template=None)
    folder = save_tiny(made, tmp_path / "model")
    check(NoChatTemplateError, "chat template", folder)
    loaded = load_model(str(folder), allow_no_template=True)
    assert len(Engine(loaded).complete(["Once upon"], max_new_tokens=4)) == 1
    with pytest.raises(NoChatTemplateError):
        Engine(loaded).generate(random_prompts(1))


def test_models_that_do_not_continue_text(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

    small = {"vocab_size": 264, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    bert = BertForMaskedLM(BertConfig(**small, num_attention_heads=2))
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=264, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    for name, model in (("bert", bert), ("t5", t5)):
        model.save_pretrained(tmp_path / name)
        tiny_model().tokenizer.save_pretrained(tmp_path / name)
        check(UnsupportedModelError, "not a model that continues text", tmp_path / name)
    edit(tmp_path / "bert" / "config.json", architectures=["BertModel"])
    check(UnsupportedModelError, "looks ahead", tmp_path / "bert")


def test_quantised_weights(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    check(UnsupportedModelError, "quantised", folder)


def test_stop_ids_from_the_template(tmp_path: Path) -> None:
    # The model's own files name only the end of text; the template ends a turn otherwise.
    made = tiny_model("llama")
    made.model.generation_config.eos_token_id = [0]
    made.model.config.eos_token_id = 0
    made.tokenizer.eos_token = "<|endoftext|>"
    loaded = load_model(str(save_tiny(made, tmp_path / "model")))
    assert loaded.stop_ids == (0, 2)


def test_no_pad_token(tmp_path: Path) -> None:
    made = tiny_model("llama")
    made.tokenizer.pad_token = None
    made.model.config.pad_token_id = None
    loaded = load_model(str(save_tiny(made, tmp_path / "model")))
    assert loaded.pad_id == loaded.stop_ids[0]


# Models of the world, where the shared folder is at hand

SHARED = Path(__file__).parents[2].parent / "shared" / "models"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/models")
def test_real_models() -> None:
    stories = load_model(str(SHARED / "stories260K"), allow_no_template=True)
    assert stories.stop_ids == (1, 2) and stories.profile.parameters == 260_032
    [text] = Engine(stories).complete(["Once upon a time"], max_new_tokens=60)
    assert text.startswith(", there was a little girl named Lily. She loved to play outside in")
    pairs = [("She loved to play", " outside"), ("She loved to play", " quantum")]
    (right, _), (wrong, _) = Engine(stories).log_likelihood(pairs)
    assert right > wrong + 5
    pocket = load_model(str(SHARED / "pocket-prototype"))
    assert pocket.stop_ids == (2,) and pocket.pad_id == 3


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_that_can_not_be_read(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (folder / "config.json").chmod(0)
    check(ModelError, "can't be read", folder)


def test_the_dtype_follows_what_the_hardware_multiplies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny(tiny_model("llama"), tmp_path / "tiny")
    found = locate.Located(folder, str(folder), None)
    known = dataclasses.replace(found, base_digest=load_model(str(folder)).base_digest)
    for kind, where, expected in (
        ("bfloat16", known, torch.bfloat16),
        ("float32", known, torch.float32),
        ("bfloat16", found, torch.float32),
    ):
        monkeypatch.setattr(loading, "default_compute", lambda kind=kind: kind)
        monkeypatch.setattr(loading, "locate", lambda *_, where=where: where)
        assert load_model(str(folder), dtype="auto").dtype == expected


def test_an_exchange_keeps_aside_what_it_changes_and_holds_nothing_twice() -> None:
    loaded = tiny_model()
    live, digest = loaded.weights(), loaded.weights_digest()
    new = {name: tensor.clone() for name, tensor in live.items()}
    new["model.norm.weight"] += 1
    wanted = tensor_digest(new)
    aside: dict[str, torch.Tensor] = {}
    with pytest.raises(ModelError):
        loaded.exchange({"model.norm.weight": new["model.norm.weight"]}, aside)
    assert loaded.weights_digest() == digest and aside == {}
    loaded.exchange(new, aside)
    assert new == {} and list(aside) == ["model.norm.weight"]
    assert loaded.weights_digest() == wanted
    # A second exchange leaves what was kept first.
    loaded.exchange({name: tensor + 2 for name, tensor in live.items()}, aside)
    assert set(aside) == set(live)
    loaded.put_back(aside)
    assert loaded.weights_digest() == digest


def test_an_interrupted_exchange_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny_model()
    digest, seen = loaded.weights_digest(), []
    really = loaded_module._equal

    def interrupted(live: torch.Tensor, new: torch.Tensor) -> bool:
        seen.append(live)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return really(live, new)

    aside: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(loaded_module, "_equal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loaded.exchange({name: t + 1 for name, t in loaded.weights().items()}, aside)
    assert len(aside) == 3 and loaded.weights_digest() != digest
    loaded.put_back(aside)
    assert loaded.weights_digest() == digest
