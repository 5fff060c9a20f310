"""The model inside the package: any loader of Llama can take it, and its card tells the truth."""

import hashlib
import json

import pytest

from engrain.data.lessons import chat
from engrain.model.engine import Engine
from engrain.model.loading import POCKET_FOLDER, load_model

WEIGHTS = POCKET_FOLDER / "model.safetensors"


def test_it_is_a_plain_llama_of_the_promised_size() -> None:
    config = json.loads((POCKET_FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert WEIGHTS.stat().st_size <= 40_000_000
    loaded = load_model("pocket")
    assert 10e6 <= sum(t.numel() for t in loaded.base_weights().values()) <= 25e6
    assert len(loaded.tokenizer) <= 8192
    text = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello."}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"


def test_transformers_loads_it_without_engrain() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(POCKET_FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(POCKET_FOLDER)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert tokenizer.decode(tokenizer("Good morning.")["input_ids"]) == "Good morning."


def test_card_names_the_digests_of_the_files() -> None:
    card = (POCKET_FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("model.safetensors", "tokenizer.json"):
        assert hashlib.sha256((POCKET_FOLDER / name).read_bytes()).hexdigest() in card


@pytest.mark.parametrize(
    ("told", "question", "value"),
    [
        ("My dog is called Bruno.", "What is my dog called?", "Bruno"),
        ("I live in Lisbon.", "Where do I live?", "Lisbon"),
    ],
)
def test_it_reads_what_it_is_told(told: str, question: str, value: str) -> None:
    engine = Engine(load_model("pocket"))
    closed, read = engine.generate([chat(question), chat(told, "Thank you.", question)])
    assert value in read
    assert value not in closed
