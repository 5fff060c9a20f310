"""The training of the pocket model: parity, data, schedule, resuming, export."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from training.pocket.data import Corpus, Encoder, Mix, held_out, mark_loss
from training.pocket.lean import BLOCK, Lean, Shape, from_hf, init_params, to_hf
from training.pocket.optim import Optimiser, orthogonalise
from training.pocket.recentre import recentre
from training.pocket.store import CHAT_TEMPLATE, digest, hf_config, save_checkpoint
from training.pocket.tokenizer import train_tokenizer
from training.pocket.train import RECENT, Progress, Trainer, learning_share, parse

TINY = Shape(vocab=300, width=64, layers=2, heads=2, head_dim=32, ffn=96)
SIZES = {"vocab": 300, "width": 64, "layers": 2, "heads": 2, "head_dim": 32, "ffn": 96}


def talk(rng: random.Random, hint: int = 0) -> list[dict[str, Any]]:
    """A dialogue in the generator's form."""
    out: list[dict[str, Any]] = []
    for _ in range(rng.randint(1, 3)):
        name = "".join(rng.choice("abcdefgh") for _ in range(5))
        out.append({"role": "user", "content": f"My dog is {name}.", "loss": False})
        out.append({"role": "assistant", "content": f"Hello {name}!", "loss": True})
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and a little data."""
    at = tmp_path_factory.mktemp("pocket")
    rng = random.Random(3)
    rows = [[{"role": m["role"], "content": m["content"]} for m in talk(rng)] for _ in range(400)]
    (at / "data").mkdir()
    with gzip.open(at / "data" / "talks.jsonl.gz", "wt") as f:
        f.writelines(json.dumps({"messages": r}) + "\n" for r in rows)
    book = {
        "title": "A",
        "text": "\n\n".join(f"It was day {i} of the journey." for i in range(300)),
    }
    (at / "data" / "books.jsonl").write_text(json.dumps(book) + "\n")
    texts = [m["content"] for r in rows for m in r]
    train_tokenizer(texts, at / "tokenizer", size=300)
    return at


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder(Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json")))


def test_lean_equals_transformers() -> None:
    """Loss and gradients in float32, for a document longer than a block and a short one."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    reference = LlamaForCausalLM(hf_config(TINY)).float()
    params = from_hf(reference.state_dict(), TINY)
    lean = Lean(TINY, dtype=torch.float32)
    work = lean.working_copy(params)
    lengths = [2 * BLOCK + 40, 30]
    ids = torch.randint(4, TINY.vocab, (sum(lengths),))
    where = torch.cat([torch.arange(1, lengths[0], 3), lengths[0] + torch.arange(1, 30)])
    loss = lean.loss(work, ids, [(n,) for n in lengths], where)
    loss.backward()
    labels = torch.full_like(ids, -100)
    labels[where] = ids[where]
    total: Any = 0
    for x, y in zip(ids.split(lengths), labels.split(lengths), strict=True):
        total = total + reference(x[None], labels=y[None]).loss * (y >= 0).sum()
    (total / len(where)).backward()
    assert loss.item() == pytest.approx((total / len(where)).item(), abs=1e-5)
    grads = to_hf({n: w.grad for n, w in work.items() if w.grad is not None}, TINY, torch.float32)
    for name, p in reference.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(grads[name], p.grad, rtol=1e-3, atol=2e-5)


def test_branches_are_documents_that_share_their_trunk() -> None:
    """Loss and gradients of one document with branches are those of a document for each."""
    torch.manual_seed(1)
    params = init_params(TINY, 1)
    lean = Lean(TINY, dtype=torch.float64, residual=torch.float64)
    lean.cos, lean.sin = lean.cos.double(), lean.sin.double()
    trunk, ends = torch.randint(4, 300, (BLOCK + 150,)), torch.randint(4, 300, (3, 40))
    found = []
    for whole in (True, False):
        work = lean.working_copy({name: p.double() for name, p in params.items()})
        if whole:
            ids = torch.cat([trunk, *ends])
            docs: list[tuple[int, ...]] = [(len(trunk), 40, 40, 40), (40,)]
            first = [len(trunk) + 40 * i for i in range(3)]
        else:
            ids = torch.cat([torch.cat([trunk, end]) for end in ends])
            docs = [(len(trunk) + 40,)] * 3 + [(40,)]
            first = [len(trunk) + (len(trunk) + 40) * i for i in range(3)]
        ids = torch.cat([ids, ends[0]])
        where = torch.cat([torch.arange(at + 1, at + 40) for at in (*first, len(ids) - 40)])
        loss = lean.loss(work, ids, docs, where)
        loss.backward()
        found.append((loss.detach(), {n: w.grad for n, w in work.items()}))
    (one, grads), (other, expected) = found
    torch.testing.assert_close(one, other)
    for name, grad in expected.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-3, atol=1e-6, msg=name)


def test_hf_names_round_trip() -> None:
    params = init_params(TINY, 1)
    again = from_hf(to_hf(params, TINY, torch.float32), TINY)
    assert digest(params) == digest(again)


def test_orthogonalise() -> None:
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(2, 24, 64)).float())
    assert singular.min() > 0.5 and singular.max() < 1.4


def test_a_rare_token_keeps_its_place() -> None:
    """One token is wanted once in 200 steps; the others' pull must not wash its embedding out."""
    torch.manual_seed(0)
    embed = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
    work = {"embed": embed.clone().requires_grad_(True)}
    optimiser = Optimiser({"embed": embed.clone()}, work)
    hidden = torch.randn(16) + 0.1
    for step in range(1000):
        target = torch.tensor(0 if step % 200 == 0 else 1 + step % 7)
        logits = work["embed"] @ (hidden + 0.3 * torch.randn(16))
        torch.nn.functional.cross_entropy(logits, target).backward()  # type: ignore[no-untyped-call]
        optimiser.step(0.0, 1e-2)
    assert work["embed"].mean(0).abs().max() < 1e-6
    with torch.no_grad():
        rare = torch.softmax(work["embed"] @ hidden, 0)[0].item()
    assert 1 / 200 / 4 < rare < 4 / 200


def test_recentre(folder: Path, tmp_path: Path) -> None:
    """Tied logits move by one number each, the moments start anew, and the run goes on."""
    run(folder, tmp_path / "run", "--steps", "3")
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    before = torch.randn(300, 64) + torch.linspace(-1, 1, 64)
    state["master"]["embed"].copy_(before)
    assert recentre(state) == pytest.approx(before.mean(0).norm().item())
    after, hidden = state["master"]["embed"], torch.randn(5, 64)
    assert after.mean(0).abs().max() < 1e-5
    old, new = (torch.softmax(hidden @ e.T, -1) for e in (before, after))
    torch.testing.assert_close(old, new, atol=1e-5, rtol=1e-3)
    moments = next(
        m for m in state["optimiser"]["adam"]["state"].values() if m["exp_avg"].shape == after.shape
    )
    assert (
        not moments["exp_avg"].any() and (moments["exp_avg_sq"] == moments["exp_avg_sq"][0]).all()
    )
    # What is a token's own is brought up where it was washed out, and only there.
    after[7] *= 0.01
    kept = after[8].clone()
    recentre(state)
    assert after[7].norm() > 0.9
    torch.testing.assert_close(after[8], kept, atol=0.1, rtol=0.1)
    save_checkpoint(path, state)
    assert run(folder, tmp_path / "run").progress.step == 16


def test_encoding_equals_chat_template(folder: Path, encoder: Encoder) -> None:
    """Same tokens as transformers; loss on the marked content and its end, nothing else."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert tokenizer.chat_template == CHAT_TEMPLATE
    messages = [*talk(random.Random(1)), {"role": "user", "content": " Ünï\n ", "loss": True}]
    [doc] = encoder.dialogues([messages])
    assert tokenizer.apply_chat_template(messages)["input_ids"] == doc.ids.tolist()
    learned = "".join(f"{m['content']}<|im_end|>" for m in messages if m["loss"])
    assert tokenizer.decode(doc.ids[doc.loss]) == learned


def test_branches_begin_at_their_messages(encoder: Encoder) -> None:
    said = talk(random.Random(1))
    more = [m | {"branch": m["role"] == "user"} for m in talk(random.Random(2))]
    whole, trunk, *rest = encoder.dialogues([said + more, said, *(more[i : i + 2] for i in (0, 2))])
    assert whole.parts[0] == len(trunk) and len(whole.parts) == 1 + len(more) // 2
    assert whole.parts[1] == len(rest[0])
    cut = whole.cut(0, len(trunk) + 3)
    assert cut.parts == (len(trunk), 3) and whole.cut(0, len(trunk)).parts == (len(trunk),)
    with pytest.raises(ValueError, match="trunk"):
        whole.cut(1, 9)


def test_pieces_end_at_messages(encoder: Encoder) -> None:
    messages = mark_loss([{"role": "user", "content": "Is it so?"}] * 20)
    [doc] = encoder.dialogues([messages])
    assert doc.loss.any()
    pieces = encoder.pieces(doc, 60)
    assert np.concatenate([p.ids for p in pieces]).tolist() == doc.ids.tolist()
    assert all(len(p) <= 60 and p.ids[0] == encoder.start and not p.loss[0] for p in pieces)


def test_batches(folder: Path, encoder: Encoder) -> None:
    """Full, pure in the step, and mixed about as asked."""
    mix = Mix(0.6, 0.3, 0.1, seq=96, tokens=512)
    corpus = Corpus(folder / "data", encoder, mix, talk, seed=5)
    other = Corpus(folder / "data", encoder, mix, talk, seed=5)
    shares: dict[str, int] = {}
    for step in range(60):
        batch = corpus.batch(step)
        assert len(batch.ids) == sum(map(sum, batch.docs)) == 512
        starts = np.cumsum([0, *map(sum, batch.docs[:-1])])
        assert not np.isin(batch.where, starts).any()
        for name, n in batch.shares.items():
            shares[name] = shares.get(name, 0) + n
    assert np.array_equal(batch.ids, other.batch(59).ids)
    total = sum(shares.values())
    assert shares["generated"] / total == pytest.approx(0.6, abs=0.08)
    assert shares["talks"] / total == pytest.approx(0.3, abs=0.08)
    assert shares["books"] / total == pytest.approx(0.1, abs=0.08)
    assert 0 < sum(held_out(str(i)) for i in range(2000)) < 60


def test_schedule() -> None:
    assert learning_share(Progress(step=0), 10) == pytest.approx(0.1)
    assert learning_share(Progress(step=50, tokens=900), 10) == 1.0
    late = Progress(step=50, tokens=900, decay_from=800, decay_over=400)
    assert learning_share(late, 10) == pytest.approx(0.75)


def run(folder: Path, out: Path, *more: str) -> Trainer:
    fixed = (
        "--tokens 4096 --generator none --decay-tokens 1024 --seq 96 --batch-tokens 256 --warmup 3 "
        "--no-compile --threads 1 --log-steps 4 --eval-tokens 100000000"
    )
    here = ["--data", str(folder / "data"), "--tokenizer", str(folder / "tokenizer")]
    sizes = ["--shape", json.dumps(SIZES), "--out", str(out)]
    trainer = Trainer(parse([*fixed.split(), *here, *sizes, *more]))
    trainer.run()
    return trainer


def test_resumed_equals_uninterrupted(folder: Path, tmp_path: Path) -> None:
    """Stopped after 5 of 16 steps and started again, to the bit."""
    whole = run(folder, tmp_path / "a")
    run(folder, tmp_path / "b", "--steps", "5")
    parts = run(folder, tmp_path / "b")
    assert whole.progress.step == parts.progress.step == 16
    assert digest(whole.optimiser.master) == digest(parts.optimiser.master)
    assert digest(whole.optimiser.muon.buffers) == digest(parts.optimiser.muon.buffers)
    curve = (tmp_path / "a" / "curve.jsonl").read_text().splitlines()
    assert json.loads(curve[-1])["tokens"] == 4096


def test_decay_on_request(folder: Path, tmp_path: Path) -> None:
    """DECAY_NOW ends the run after so many tokens, also one that was stopped in between."""
    out = tmp_path / "run"
    run(folder, out, "--steps", "4")
    (out / "DECAY_NOW").write_text("768\n")
    run(folder, out, "--steps", "5")
    done = run(folder, out)
    assert done.progress.tokens == 4 * 256 + 768


def test_minutes_end_with_a_whole_decay(folder: Path, tmp_path: Path) -> None:
    """The decay begins where the steps that are left take what is left of the time."""
    out = tmp_path / "run"
    done = run(folder, out, "--tokens", "9000000", "--decay-tokens", "90000", "--minutes", "0.02")
    p = done.progress
    assert RECENT <= p.step < 1000 and p.decay_from >= RECENT * 256
    assert p.tokens == p.decay_from + p.decay_over
    assert json.loads((out / "curve.jsonl").read_text().splitlines()[-1])["final"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_computes_in_the_type_that_is_asked(folder: Path, tmp_path: Path, dtype: str) -> None:
    done = run(folder, tmp_path / "run", "--steps", "2", "--dtype", dtype)
    assert done.work["0.qkv"].dtype == done.model.residual == getattr(torch, dtype)
    assert all(p.dtype == torch.float32 for p in done.optimiser.master.values())


def test_export_loads(folder: Path, tmp_path: Path) -> None:
    """Transformers reads the folder, and a run can start from it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(folder, tmp_path / "run", "--steps", "2")
    hf = tmp_path / "run" / "hf"
    model = AutoModelForCausalLM.from_pretrained(hf)
    assert model.dtype == torch.bfloat16 and model.config.vocab_size == 300
    tokenizer = AutoTokenizer.from_pretrained(hf)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert text == "<|im_start|>user\na<|im_end|>\n"
    again = run(folder, tmp_path / "next", "--init", str(hf), "--steps", "1")
    assert again.shape == TINY and again.lr_muon == 0.005
