"""Whether batches, streams and the compact forward change answers: asked in many ways, compared.

The questions of the panel and of some days of a made-up life are answered greedily one by one, in
batches of several sizes, as streams and without the compact forward; sampled answers likewise. As
a control the same is counted with near ties left to rounding. For some answers every token's logits
are compared with their definition (the whole sequence, one row, no cache): the deviation must stay
within what the engine allows for.

    python -m benchmarks.batches [--prompts 240]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import about, begin, options, print_table, write_json

SIZES = (2, 8, 32, 64)


def questions(count: int, days: int, seed: int) -> list[Any]:
    """Prompts of the packaged panel and of probes, without repeats."""
    from engrain.bench.life import make_stream
    from engrain.exam.panel import load_panel

    panel = load_panel()
    found = [item.probe.messages for part in ("abstention", "norm") for item in panel.part(part)]
    for day in make_stream(days=days, seed=seed):
        found += [probe.messages for probe in day.probes]
    return list(dict.fromkeys(found))[:count]


def main() -> int:
    """Parse the arguments, ask in every way, write; 0 if no answer differs."""
    parser = options(__doc__, "batches")
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--days", type=int, default=20, help="of a made-up life, for the probes")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--compared", type=int, default=16, help="answers with every token compared"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = begin(args, Path(folder))
        import torch

        from engrain.model.engine import Engine
        from engrain.model.loading import load_model

        loaded = load_model(source, dtype=args.dtype)

    class Watched(Engine):
        """Counts the choices that were made again, and compares logits where it is asked to."""

        again = 0
        tokens = 0
        compare = False
        worst = 0.0
        without_plan = False
        control = False

        def _definition(self, row: Any) -> Any:
            self.again += 1
            return super()._definition(row)

        def _plan(self) -> Any:
            plan = super()._plan()
            return None if self.without_plan else plan

        def _uncertain(self) -> float:
            return 0.0 if self.control else super()._uncertain()

        def _choose(self, rows: Any, logits: Any, *more: Any) -> Any:
            self.tokens += sum(not row.finished for row in rows)
            if self.compare:
                for row, own in zip(rows, logits.float(), strict=True):
                    if not row.finished:
                        truth = super()._definition(row)[0].float()
                        allowed = self._uncertain() * float(own.abs().max())
                        self.worst = max(self.worst, float((own - truth).abs().max()) / allowed)
            return super()._choose(rows, logits, *more)

    engine = Watched(loaded)
    prompts = questions(args.prompts, args.days, args.seed)
    if args.model == "tiny":
        prompts = prompts[: min(len(prompts), 12)]
    fast, reason = engine.fast_decode, engine.fast_decode_reason
    rows: list[dict[str, Any]] = []

    def ask(size: int, **more: Any) -> list[str]:
        return engine.generate(prompts, max_new_tokens=args.tokens, batch_size=size, **more)

    def stream(size: int, **more: Any) -> list[str]:
        return [
            "".join(engine.stream(p, max_new_tokens=args.tokens, **more)).strip() for p in prompts
        ]

    def compared(
        way: str, size: int, ties: bool, expected: list[str] | None, how: Any, **more: Any
    ):
        engine.again = engine.tokens = 0
        engine.control = not ties
        began = time.perf_counter()
        answers = how(size, **more)
        rows.append(
            {
                "way": way,
                "batch": size,
                "near_ties_by_definition": ties,
                "differ": None
                if expected is None
                else sum(a != b for a, b in zip(answers, expected, strict=True)),
                "made_again": engine.again if ties else 0,
                "tokens": engine.tokens,
                "seconds": time.perf_counter() - began,
            }
        )
        engine.control = False
        return answers

    alone = compared("greedy", 1, True, None, ask)
    for size in SIZES:
        compared("greedy", size, True, alone, ask)
    compared("stream", 1, True, alone, stream)
    engine.without_plan = True
    compared("greedy, model's own forward", 1, True, alone, ask)
    compared("greedy, model's own forward", 32, True, alone, ask)
    engine.without_plan = False
    for size in (1, *SIZES):
        compared("greedy, control", size, False, alone, ask)
    more = {"temperature": 0.8, "seed": args.seed}
    sampled = compared("sampled", 1, True, None, ask, **more)
    compared("sampled", 32, True, sampled, ask, **more)
    more["top_p"] = 0.9
    sampled = compared("sampled, top_p 0.9", 1, True, None, ask, **more)
    compared("sampled, top_p 0.9", 32, True, sampled, ask, **more)
    engine.compare = True
    whole, prompts = prompts, prompts[: args.compared]
    for size in (1, 8, len(prompts)):
        ask(size)
    # What the engine promises: in types of few digits, that batches change no greedy answer.
    fine = args.dtype == "float32"
    promised = [r for r in rows if r["near_ties_by_definition"]]
    promised = [r for r in promised if fine or r["way"] == "greedy"]
    differ = sum(row["differ"] or 0 for row in promised)
    record = {
        **about(args),
        "torch_threads": torch.get_num_threads(),
        "fast_decode": fast,
        "fast_decode_reason": reason,
        "prompts": len(whole),
        "deviation": engine._agreement.deviation,
        "allowed": engine._uncertain(),
        "worst_share_of_allowed": engine.worst,
        "differ": differ,
        "differ_control": sum(row["differ"] or 0 for row in rows if "control" in row["way"]),
        "rows": rows,
    }
    path = write_json(args.json, record)
    print_table(
        f"The same {len(whole)} questions in different ways",
        ("way", "batch", "answers that differ", "choices made again", "tokens", "seconds"),
        [
            (r["way"], r["batch"], r["differ"], r["made_again"], r["tokens"], r["seconds"])
            for r in rows
        ],
    )
    print(
        f"\nDeviation measured at start: {engine._agreement.deviation:.2e} of the largest logit; "
        f"allowed: {engine._uncertain():.2e}; seen: {engine.worst:.2f} of what is allowed.\n{path}"
    )
    return 0 if differ == 0 and (engine.worst <= 1.0 or not fine) else 1


if __name__ == "__main__":
    sys.exit(main())
