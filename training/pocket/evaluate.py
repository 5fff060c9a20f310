"""Reading in context: tell a model things in a conversation, then ask.

Run: python -m training.pocket.evaluate FOLDER [--questions 60]
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engrain.model.hardware import default_compute
from engrain.study.requests import claims_in

UNKNOWN = (
    "don't know", "do not know", "don't think you", "do not think you", "haven't told",
    "have not told", "haven't mentioned", "have not mentioned", "didn't tell", "did not tell",
    "didn't mention", "did not mention", "never told", "never mentioned", "not sure",
    "haven't said", "have not said", "didn't say", "did not say", "no idea", "can't say",
    "haven't shared", "have not shared", "don't have that", "you've not told",
)  # fmt: skip


def contains(text: str, phrase: str) -> bool:
    """Whole words, upper and lower case alike."""
    return re.search(rf"(?<!\w){re.escape(phrase.casefold())}(?!\w)", text.casefold()) is not None


def says_unknown(text: str) -> bool:
    plain = text.casefold().replace("’", "'")
    return any(u in plain for u in UNKNOWN)


def lists(answer: str, listed: Sequence[Sequence[str]]) -> bool:
    """Whether the lines of an answer are those wanted: the value, and words of the question."""
    pairs = claims_in(answer)
    return len(pairs) == len(listed) and all(
        any(
            value.casefold() == said.casefold() and all(contains(asked, word) for word in words)
            for asked, said in pairs
        )
        for value, *words in listed
    )


def passes(answer: str, probe: dict[str, Any]) -> bool:
    """Whether an answer is right."""
    if probe["kind"] in ("claims", "nothing"):
        return lists(answer, probe["listed"])
    if probe["kind"] in ("so", "not so"):
        return [answer.strip().rstrip(".").casefold()] == probe["answers"]
    if any(contains(answer, n) for n in probe["not_answers"]):
        return False
    if probe["kind"] == "abstention":
        return says_unknown(answer)
    return any(contains(answer, a) for a in probe["answers"])


@torch.no_grad()
def answers(
    model: Any, tokenizer: Any, probes: Sequence[dict[str, Any]], new: int = 40, batch: int = 20
) -> list[str]:
    """Greedy replies, in batches of questions of about the same length."""
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": m["role"], "content": m["content"]} for m in p["messages"]],
            tokenize=False,
            add_generation_prompt=True,
        )
        for p in probes
    ]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    out = [""] * len(ids)
    device = next(model.parameters()).device
    for at in range(0, len(order), batch):
        some = order[at : at + batch]
        width = max(len(ids[i]) for i in some)
        x = torch.full((len(some), width), tokenizer.pad_token_id)
        for row, i in enumerate(some):
            x[row, width - len(ids[i]) :] = torch.tensor(ids[i])
        mask = (x != tokenizer.pad_token_id).long()
        y = model.generate(
            x.to(device), attention_mask=mask.to(device), max_new_tokens=new, do_sample=False
        )
        texts = tokenizer.batch_decode(y[:, width:], skip_special_tokens=True)
        for i, text in zip(some, texts, strict=True):
            out[i] = text.strip()
    return out


def evaluate(
    model: Any,
    tokenizer: Any,
    n: int = 60,
    seed: int = 7,
    facts: int = 6,
    generator: str = "training.pocket.generator",
    samples: int = 0,
    halves: Sequence[str] = ("train", "development"),
    requests: bool = True,
) -> dict[str, Any]:
    """Fractions of right answers by relations and kind of question.

    With `requests` also those of self-study: lists of what a message tells ("claims", "nothing"),
    and verdicts ("so", "not so"). The held-out half is not looked at unless it is named: what is
    looked at while the training data is made is held out no longer.
    """
    module = importlib.import_module(generator)
    out: dict[str, Any] = {}
    for relations in halves:
        probes = module.exam(random.Random(seed), relations=relations, facts=facts, n=n)
        said = answers(model, tokenizer, probes)
        if requests:
            asked = module.request_exam(random.Random(seed), relations, facts, n)
            probes += asked
            said += answers(model, tokenizer, asked, new=96)
        right = [passes(a, p) for a, p in zip(said, probes, strict=True)]
        for kind in sorted({p["kind"] for p in probes}):
            marks = [r for r, p in zip(right, probes, strict=True) if p["kind"] == kind]
            out[f"{relations}/{kind}"] = round(sum(marks) / len(marks), 3)
        rows = list(zip(probes, said, right, strict=True))
        for p, a, r in [*rows[:samples], *(rows[n : n + samples] if requests else ())]:
            expected = p.get("listed") or p["answers"] or "(unknown)"
            print(f"{'+' if r else '-'} {p['messages'][-1]['content']!r} {expected} -> {a!r}")
    return out


def compute_type() -> torch.dtype:
    """bf16 where the processor multiplies it, else fp32: emulated, bf16 is several times slower."""
    kind: torch.dtype = getattr(torch, default_compute())
    return kind


def evaluate_params(
    params: dict[str, Tensor],
    shape: Any,
    tokens: Path,
    n: int = 60,
    generator: str = "training.pocket.generator",
) -> dict[str, Any]:
    """`evaluate` for weights in training."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    from training.pocket.lean import to_hf
    from training.pocket.store import CHAT_TEMPLATE, hf_config

    model: Any = LlamaForCausalLM(hf_config(shape)).to(compute_type())
    model.load_state_dict(to_hf(params, shape, torch.bfloat16), strict=False)
    model.tie_weights()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 3
    tokenizer = AutoTokenizer.from_pretrained(str(tokens))
    tokenizer.chat_template = CHAT_TEMPLATE
    return evaluate(model.eval(), tokenizer, n, generator=generator)


def main() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder")
    p.add_argument("--questions", type=int, default=60)
    p.add_argument("--facts", type=int, default=6)
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--halves", default="train,development", help="also: heldout")
    p.add_argument("--samples", type=int, default=0, help="show so many answers")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=compute_type()).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    result = evaluate(
        model,
        tokenizer,
        args.questions,
        args.seed,
        args.facts,
        samples=args.samples,
        halves=args.halves.split(","),
    )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
