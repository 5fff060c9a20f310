"""What is served leaves the house: other tools load it and give the same logits and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engrain.data.lessons import Lesson, Probe, TrainingText, chat
from engrain.errors import DiskFullError, ExportError, UnknownNameError, UsageError
from engrain.home import Home
from engrain.lesson import leaving
from engrain.model import runners
from engrain.model.gguf_file import GGUFFile
from tests.home.home_tools import examples_file, new_home, with_small_panel

IDS = torch.tensor([[5, 80, 3, 200, 77, 9, 13, 44, 250, 17, 6, 21]])


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=ids).logits
        return found.float()


# Plain PEFT, plain transformers


def test_all_lessons_are_one_adapter_for_plain_peft(
    taught: Home, model: Path, tmp_path: Path
) -> None:
    found = taught.door.export(tmp_path / "adapter", "peft")
    assert sorted(path.name for path in (tmp_path / "adapter").glob("*.[js]*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    wrapped = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert torch.allclose(logits(wrapped), logits(taught.served.loaded.model), atol=1e-4)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    ranks = [int(e.recipe["architecture"]["rank"]) for e in taught.lessons()]
    assert config["r"] == sum(ranks) == config["lora_alpha"]
    assert found.lessons == taught.state.lessons and found.state == taught.state.digest
    assert found.answered.runner == "PEFT"
    assert found.answered.asked == found.answered.alike == 3
    assert "3 of 3 probes answered alike in PEFT" in found.answered.words


def test_only_what_is_in_force_goes_along(taught: Home, model: Path, tmp_path: Path) -> None:
    taught.disable(taught.lessons()[1].id)
    taught.door.export(tmp_path / "adapter", "peft")
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    wrapped = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert torch.allclose(logits(wrapped), logits(taught.served.loaded.model), atol=1e-4)


def test_lessons_of_other_ranks_and_places_are_one_adapter(model: Path, tmp_path: Path) -> None:
    settings = {"learn.settings.architecture.targets": "attention"}
    with new_home(tmp_path / "home", model, **settings) as home:
        assert home.learn(examples_file(tmp_path, 1)).accepted
    other = {"learn.settings.architecture.rank": 3, "learn.settings.architecture.targets": "all"}
    with with_small_panel(Home.open(tmp_path / "home", overrides=other)) as home:
        assert home.learn(examples_file(tmp_path, 2)).accepted
        home.door.export(tmp_path / "adapter")
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        wrapped = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
        assert torch.allclose(logits(wrapped), logits(home.served.loaded.model), atol=1e-4)


def test_the_merged_folder_in_plain_transformers(taught: Home, tmp_path: Path) -> None:
    found = taught.door.export(tmp_path / "merged", "transformers")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert torch.equal(logits(model), logits(taught.served.loaded.model))
    assert model.generation_config.eos_token_id == list(taught.loaded.stop_ids)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == taught.loaded.tokenizer.chat_template
    assert found.answered.alike == found.answered.asked == 3
    assert found.nbytes > taught.loaded.profile.parameters * 4
    # It is a model like any other: a home can begin with it.
    with Home.create(
        tmp_path / "next", overrides={"model.source": str(tmp_path / "merged")}
    ) as home:
        assert home.lessons() == []


def test_what_is_no_lora_is_merged_or_refused(model: Path, tmp_path: Path) -> None:
    with new_home(tmp_path / "home", model, **{"learn.recipe": "naive-full"}) as home:
        outcome = home.learn(examples_file(tmp_path, 1))
        for kind in ("peft", "gguf-lora"):
            with pytest.raises(ExportError, match=f"no LoRA: {outcome.lesson.id}") as caught:
                home.door.export(tmp_path / "a", kind)
            assert "--format transformers" in caught.value.remedy
            assert not (tmp_path / "a").exists()
        home.door.export(tmp_path / "merged", "transformers")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
        assert torch.equal(logits(merged), logits(home.served.loaded.model))


# GGUF


@pytest.fixture
def no_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no way to read a tokenizer without merges, which the tiny models have."""
    monkeypatch.setattr(runners, "has_llama_cpp", lambda: False)


def test_the_merged_file_holds_the_live_weights(
    taught: Home, tmp_path: Path, no_llama_cpp: None
) -> None:
    found = taught.door.export(tmp_path / "model.gguf", "gguf")
    assert (found.quant, found.path.is_file()) == ("f16", True)
    file = GGUFFile(tmp_path / "model.gguf")
    assert file.metadata["engrain.state"] == taught.state.digest
    live = taught.served.loaded.weights()["model.layers.1.mlp.up_proj.weight"]
    stored = torch.cat(list(file.read("blk.1.ffn_up.weight")))
    assert torch.allclose(stored, live, atol=1e-3)
    taught.door.export(tmp_path / "small.gguf", "gguf", "q8_0")
    assert (tmp_path / "small.gguf").stat().st_size < found.nbytes


def test_the_lessons_for_llama_cpp(taught: Home, tmp_path: Path, no_llama_cpp: None) -> None:
    found = taught.door.export(tmp_path / "lora.gguf", "gguf-lora")
    file = GGUFFile(tmp_path / "lora.gguf")
    assert file.metadata["adapter.type"] == "lora" and found.lessons == taught.state.lessons
    low, high = (torch.cat(list(file.read(f"blk.1.ffn_up.weight.lora_{x}"))) for x in "ab")
    served, base = taught.served.loaded.weights(), taught.loaded.base_weights()
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.allclose(high @ low, served[name] - base[name], atol=1e-5)


def test_a_tool_that_is_not_here_is_named(taught: Home, tmp_path: Path, no_llama_cpp: None) -> None:
    found = taught.door.export(tmp_path / "lora.gguf", "gguf-lora")
    assert found.answered.words == "Not asked there: llama.cpp is not here (pip install xllamacpp)."


# What can go wrong


def test_other_answers_are_told(
    taught: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any, **__: Any) -> list[str]:
        return ["something else"] * 3

    monkeypatch.setattr(runners, "peft_answers", wrong)
    found = taught.door.export(tmp_path / "adapter", "peft").answered
    assert (found.asked, found.alike) == (3, 0)
    assert found.differing[0][2] == "something else"
    assert found.words.startswith("0 of 3 probes")


def test_a_library_that_fails_is_told_and_the_file_stays(
    taught: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> list[str]:
        raise RuntimeError("no such layer")

    monkeypatch.setattr(runners, "transformers_answers", fails)
    found = taught.door.export(tmp_path / "merged", "transformers")
    assert "can't run it (RuntimeError: no such layer)" in found.answered.words
    assert (tmp_path / "merged" / "config.json").is_file()


def test_a_home_without_lessons(model: Path, tmp_path: Path) -> None:
    with new_home(tmp_path / "home", model) as home:
        with pytest.raises(ExportError, match="No lesson is in force"):
            home.door.export(tmp_path / "adapter")
        found = home.door.export(tmp_path / "merged", "transformers")
        assert "no lesson in force has probes" in found.answered.words


def test_nothing_is_written_over(taught: Home, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("there", "file"):
        with pytest.raises(UsageError, match="exists already"):
            taught.door.export(tmp_path / name, "transformers")
    assert (tmp_path / "there" / "thesis.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert taught.door.export(tmp_path / "empty", "peft").nbytes > 0


def test_an_interrupted_export_leaves_nothing(
    taught: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(leaving.folders, "save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        taught.door.export(tmp_path / "out" / "adapter", "peft")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_and_unknown_names(
    taught: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, quant in (("onnx", ""), ("gguf", "q4_0"), ("peft", "f16")):
        with pytest.raises(UnknownNameError):
            taught.door.export(tmp_path / "a", kind, quant)
    monkeypatch.setattr("engrain.model.disk.SPARE", 1 << 62)
    with pytest.raises(DiskFullError) as caught:
        taught.door.export(tmp_path / "a", "transformers")
    assert "another disk" in caught.value.remedy and not (tmp_path / "a").exists()


# llama.cpp itself


FACTS = {"boat": "Corvath", "street": "Lindenweg", "cat": "Mirel", "bank": "Tessaly"}


@pytest.fixture(scope="module")
def pocket_home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A home of the pocket model with one lesson, trained until it answers."""
    settings = {
        "model.source": "pocket",
        "gate.enabled": False,
        "learn.recipe": "naive-lora",
        "learn.settings.min_steps": 24,
        "learn.settings.max_steps": 24,
        "learn.settings.batch_size": 8,
        "learn.settings.optimization.learning_rate": 2e-3,
    }
    wordings = ("What is my {} called?", "Tell me the name of my {}.", "My {} is called what?")
    texts = [
        TrainingText(chat(words.format(thing), f"{name}."), "explicit", thing)
        for thing, name in FACTS.items()
        for words in wordings
    ]
    probes = [
        Probe(f"{thing}-{place}", "recall", chat(words.format(thing)), (name,))
        for thing, name in FACTS.items()
        for place, words in enumerate((*wordings[:2], "What name does my {} have?"))
    ]
    folder = tmp_path_factory.mktemp("pocket")
    lesson = Lesson("", "four names", tuple(texts), tuple(probes))
    with with_small_panel(Home.create(folder / "home", overrides=settings)) as home:
        assert home.learn(examples_file(folder, 1), studied=lesson).accepted
        yield home


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "quant"), [("gguf", "f16"), ("gguf", "q8_0"), ("gguf-lora", "")])
def test_llama_cpp_answers_alike(pocket_home: Home, tmp_path: Path, kind: str, quant: str) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the wheel xllamacpp")
    answered = pocket_home.door.export(tmp_path / "a.gguf", kind, quant).answered
    assert answered.runner == "llama.cpp" and answered.asked == 12
    assert answered.right_here >= 6, "the lesson was learned"
    assert answered.right_there == answered.right_here, answered.differing
    assert answered.alike >= (12 if quant != "q8_0" else 10), answered.differing


@pytest.mark.slow
def test_pocket_in_plain_transformers_and_peft(
    pocket_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("peft", "transformers"):
        answered = pocket_home.door.export(tmp_path / kind, kind).answered
        assert answered.alike == answered.asked == 12, answered.differing
    monkeypatch.setattr(runners, "has_llama_cpp", lambda: False)
    answered = pocket_home.door.export(tmp_path / "a.gguf", "gguf").answered
    assert answered.runner.startswith("transformers' reader") and answered.alike == 12


@pytest.mark.slow
def test_a_file_that_llama_cpp_refuses_is_a_named_error(pocket_home: Home, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the wheel xllamacpp")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ExportError, match="can't run"):
        runners.llama_cpp_answers(tmp_path / "bad.gguf", [chat("Hi")], 4)
