"""Train the pocket model; stop it at any time, and the same command goes on where it was.

Run: python -m training.pocket.train --data DATA --init FOLDER --out RUN --tokens 40000000
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import signal
import statistics
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from training.pocket.data import Batch, Corpus, Doc, Encoder, Mix
from training.pocket.evaluate import compute_type, evaluate_params
from training.pocket.lean import Lean, Shape, from_hf, init_params
from training.pocket.optim import Optimiser
from training.pocket.store import export, read_shape, read_weights, save_checkpoint

RECENT = 20
"""Steps whose time tells how many are left: the first ones compile."""


@dataclass
class Progress:
    """Where the run stands; part of every checkpoint."""

    step: int = 0
    tokens: int = 0
    decay_from: int = -1  # tokens at which the final decay began, -1: not yet
    decay_over: int = 0
    seconds: float = 0.0


def learning_share(p: Progress, warmup: int) -> float:
    """The part of the peak learning rate to use: warm-up, stable, linear decay."""
    share = min(1.0, (p.step + 1) / max(1, warmup))
    if p.decay_from >= 0:
        share *= max(0.0, 1.0 - (p.tokens - p.decay_from) / max(1, p.decay_over))
    return share


class Trainer:
    """One run: weights, optimiser, data and progress."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.set_num_threads(args.threads)
        self.args, self.out = args, Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.tokens_at = Path(args.init or args.tokenizer)
        self.shape: Shape = read_shape(self.tokens_at) if args.init else Shape()
        if args.shape:
            self.shape = replace(self.shape, **json.loads(args.shape))
        params = (
            from_hf(read_weights(Path(args.init)), self.shape)
            if args.init
            else init_params(self.shape, args.seed)
        )
        dtype = compute_type() if args.dtype == "auto" else getattr(torch, args.dtype)
        residual = getattr(torch, args.residual or str(dtype).removeprefix("torch."))
        self.model = Lean(self.shape, dtype, residual, compiled=args.compile)
        self.plain = Lean(self.shape, dtype)
        self.work = self.model.working_copy(params)
        self.optimiser = Optimiser(params, self.work, decay=args.weight_decay, dtype=dtype)
        self.progress = Progress()
        encoder = Encoder(Tokenizer.from_file(str(self.tokens_at / "tokenizer.json")))
        parts = (args.generated, args.dialogue, args.text)
        mix = Mix(*parts, args.seq, args.long_fraction, args.batch_tokens)
        data = Path(args.data) if args.data else None
        self.corpus = Corpus(data, encoder, mix, _generator(args.generator), args.seed)
        self.stop = False
        self.recent: deque[float] = deque(maxlen=RECENT)
        factor = 0.5 if args.init else 1.0
        self.lr_muon = args.lr_muon or 0.01 * factor
        self.lr_adam = args.lr_adam or 1.5e-3 * factor
        self._resume()

    # ---- checkpoints

    def _resume(self) -> None:
        path = self.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.optimiser.load(state["optimiser"], state["master"])
        self.progress = Progress(**state["progress"])
        say(f"resumed at step {self.progress.step}, {self.progress.tokens:,} tokens")

    def save(self) -> None:
        """The checkpoint first, then the model folder for others to try."""
        master = {n: p.detach() for n, p in self.optimiser.master.items()}
        state = {
            "master": master,
            "optimiser": self.optimiser.state(),
            "progress": asdict(self.progress),
            "args": {k: v for k, v in vars(self.args).items()},
        }
        save_checkpoint(self.out / "checkpoint.pt", state)
        export(self.out, self.progress.step, master, self.shape, self.tokens_at)

    # ---- steps

    def step(self) -> float:
        """One batch; returns its loss."""
        share = learning_share(self.progress, self.args.warmup)
        loss = self._loss(self.model, self.corpus.batch(self.progress.step))
        loss.backward()
        self.optimiser.step(self.lr_muon * share, self.lr_adam * share)
        self.progress.step += 1
        self.progress.tokens += self.args.batch_tokens
        return loss.item()

    def _loss(self, model: Lean, batch: Batch) -> torch.Tensor:
        ids, where = torch.from_numpy(batch.ids), torch.from_numpy(batch.where)
        return model.loss(self.work, ids, batch.docs, where)

    def _schedule(self) -> bool:
        """Start the decay if it is time or asked for; whether the run is over."""
        p, ask = self.progress, self.out / "DECAY_NOW"
        if p.decay_from < 0 and ask.exists():
            over = int(ask.read_text().strip() or self.args.decay_tokens)
            p.decay_from, p.decay_over = p.tokens, over
            say(f"decay over {over:,} tokens, asked for by {ask}")
        if p.decay_from < 0 and p.tokens >= self.args.tokens - self.args.decay_tokens:
            p.decay_from, p.decay_over = p.tokens, self.args.tokens - p.tokens
        if p.decay_from < 0 and self.args.minutes and len(self.recent) == RECENT:
            steps = int((60 * self.args.minutes - p.seconds) / statistics.median(self.recent))
            left = max(1, steps) * self.args.batch_tokens
            if left <= self.args.decay_tokens:
                p.decay_from, p.decay_over = p.tokens, left
                say(f"decay over {left:,} tokens: {self.args.minutes:g} minutes will be over then")
        return p.decay_from >= 0 and p.tokens >= p.decay_from + p.decay_over

    @torch.no_grad()
    def validate(self, most: int = 64) -> float | None:
        """Mean loss per token on held-out natural dialogues."""
        docs: list[Doc] = list(self.corpus.validation)
        if not docs:
            return None
        docs = random.Random(0).sample(docs, min(most, len(docs)))
        total = count = 0.0
        for i in range(0, len(docs), 8):
            batch = join(docs[i : i + 8])
            total += self._loss(self.plain, batch).item() * len(batch.where)
            count += len(batch.where)
        return round(total / count, 4)

    def measure(self, record: dict[str, Any]) -> None:
        """Validation loss and recall in context; one more line of `curve.jsonl`."""
        began = time.perf_counter()
        record["val"] = self.validate()
        if self.args.generator != "none":
            record |= evaluate_params(
                self.optimiser.master, self.shape, self.tokens_at, 60, self.args.generator
            )
        record["eval_seconds"] = round(time.perf_counter() - began, 1)
        say(json.dumps(record))
        with open(self.out / "curve.jsonl", "a") as f:
            f.write(json.dumps(record) + "\n")

    def run(self) -> None:
        """Train until the end of the schedule or a signal."""
        args, p = self.args, self.progress
        saved = shown = time.perf_counter()
        losses: list[float] = []
        recent, speed = None, 0.0
        evaluated = p.tokens // args.eval_tokens
        while not self.stop and not self._schedule():
            if args.steps and p.step >= args.steps:
                break
            began = time.perf_counter()
            losses.append(self.step())
            now = time.perf_counter()
            p.seconds += now - began
            self.recent.append(now - began)
            if p.step % args.log_steps == 0:
                recent = sum(losses) / len(losses)
                speed = len(losses) * args.batch_tokens / (now - shown)
                share = learning_share(p, args.warmup)
                say(
                    f"step {p.step} tokens {p.tokens / 1e6:.2f}M loss {recent:.4f} "
                    f"lr x{share:.3f} {speed:.0f} tok/s {p.seconds / 3600:.2f} h"
                )
                losses, shown = [], now
            paused = time.perf_counter()
            if p.tokens // args.eval_tokens > evaluated:
                evaluated = p.tokens // args.eval_tokens
                self.measure(self._record(recent, speed))
            if now - saved > args.save_minutes * 60:
                self.save()
                saved = now
            shown += time.perf_counter() - paused
        self.save()
        if not self.stop and p.decay_from >= 0:
            self.measure(self._record(recent, speed) | {"final": True})
        say(f"stopped at step {p.step}, {p.tokens:,} tokens")

    def _record(self, loss: float | None, speed: float) -> dict[str, Any]:
        p = self.progress
        share = learning_share(p, self.args.warmup)
        return {
            "step": p.step,
            "tokens": p.tokens,
            "lr_muon": self.lr_muon * share,
            "loss": loss if loss is None else round(loss, 4),
            "tok_s": round(speed),
            "hours": round(p.seconds / 3600, 3),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def join(docs: list[Doc]) -> Batch:
    """Documents -> one batch."""
    return Batch(
        np.concatenate([d.ids for d in docs]).astype(np.int64),
        [d.parts for d in docs],
        np.flatnonzero(np.concatenate([d.loss for d in docs])),
    )


def _generator(name: str) -> Any:
    if name == "none":
        return None
    return importlib.import_module(name).generate


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S ", time.gmtime()) + text, flush=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--data", help="folder of *.jsonl[.gz] with `messages` or `text`")
    p.add_argument("--init", help="model folder to start from (its sizes and tokenizer are kept)")
    p.add_argument("--tokenizer", help="folder with tokenizer.json, where there is no --init")
    p.add_argument("--out", required=True)
    p.add_argument("--generator", default="training.pocket.generator", help="module, or none")
    p.add_argument("--tokens", type=int, default=40_000_000)
    p.add_argument("--decay-tokens", type=int, default=6_000_000)
    p.add_argument("--steps", type=int, default=0, help="pause after this step (for tests)")
    p.add_argument("--seq", type=int, default=512)
    p.add_argument("--long-fraction", type=float, default=0.1)
    p.add_argument("--batch-tokens", type=int, default=4096)
    p.add_argument("--generated", type=float, default=0.80)
    p.add_argument("--dialogue", type=float, default=0.13)
    p.add_argument("--text", type=float, default=0.07)
    p.add_argument("--warmup", type=int, default=100)
    p.add_argument("--lr-muon", type=float, help="default 0.01, with --init 0.005")
    p.add_argument("--lr-adam", type=float, help="default 0.0015, with --init 0.00075")
    p.add_argument("--weight-decay", type=float, default=0.01)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--minutes", type=float, help="of training, the decay at the end included")
    p.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    p.add_argument("--residual", choices=("bfloat16", "float32"), help="default: as --dtype")
    p.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--save-minutes", type=float, default=5.0)
    p.add_argument("--eval-tokens", type=int, default=500_000)
    p.add_argument("--log-steps", type=int, default=50)
    p.add_argument("--shape", help="JSON of sizes that differ from the default")
    args = p.parse_args(argv)
    if not args.init and not args.tokenizer:
        p.error("--init or --tokenizer is needed")
    return args


def main(argv: list[str] | None = None) -> Trainer:
    trainer = Trainer(parse(argv))

    def ask_to_stop(*_: object) -> None:
        trainer.stop = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    trainer.run()
    return trainer


if __name__ == "__main__":
    main()
