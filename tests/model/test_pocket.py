"""The model inside the package: any loader of Llama can take it, and its card tells the truth."""

import hashlib
import json

import torch

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


def test_it_tells_rare_words_apart() -> None:
    """Optimizers wash rare embeddings into one (`training/pocket/optim.py`); then it can't read."""
    loaded = load_model("pocket")
    embed = loaded.model.get_input_embeddings().weight.detach().float()
    rare = (" lawyer", " plumber", " gardener", " accountant", " therapist", " roommate")
    ids = [loaded.tokenizer(word)["input_ids"] for word in rare]
    assert all(len(found) == 1 for found in ids)
    rows = torch.nn.functional.normalize(embed[[found[0] for found in ids]], dim=1)
    cosines = (rows @ rows.T)[~torch.eye(len(rare), dtype=torch.bool)]
    assert cosines.mean() < 0.4
    assert embed.mean(0).norm() < 0.05 * embed.norm(dim=1).mean()


def test_card_names_the_digests_of_the_files() -> None:
    card = (POCKET_FOLDER / "README.md").read_text(encoding="utf-8")
    for name in ("model.safetensors", "tokenizer.json"):
        assert hashlib.sha256((POCKET_FOLDER / name).read_bytes()).hexdigest() in card


TOLD = [
    ("My dog is called Bruno.", "What is my dog called?", "Bruno"),
    ("I live in Lisbon.", "Where do I live?", "Lisbon"),
    ("My sister's favorite color is green.", "What is my sister's favorite color?", "green"),
    ("My boss is called Martha.", "Who is my boss?", "Martha"),
    ("My car is a red Volvo.", "What is my car?", "Volvo"),
    ("My locker code is 4821.", "What is my locker code?", "4821"),
    ("My birthday is May 4.", "When is my birthday?", "May 4"),
    ("My dentist is Dr. Vomer.", "Who is my dentist?", "Vomer"),
    ("My favorite food is soup.", "What is my favorite food?", "soup"),
    ("I work as a baker.", "What is my job?", "baker"),
    ("My cat's name is Milo.", "What is my cat's name?", "Milo"),
    ("My meeting is on Friday.", "When is my meeting?", "Friday"),
]


def test_it_reads_most_of_what_it_is_told_and_knows_none_of_it_otherwise() -> None:
    """A check that the right weights are in place; how well it reads is a benchmark's to say."""
    engine = Engine(load_model("pocket"))
    read = engine.generate([chat(told, "Thank you.", asked) for told, asked, _ in TOLD])
    closed = engine.generate([chat(asked) for _, asked, _ in TOLD])
    values = [value for _, _, value in TOLD]
    assert sum(value in answer for value, answer in zip(values, read, strict=True)) >= 8
    assert not any(value in answer for value, answer in zip(values, closed, strict=True))
