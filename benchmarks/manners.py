"""What lesson zero costs: the panel on a base without it and with it.

python -m benchmarks.manners --model qwen2.5-coder-0.5b --adapter FILE
python -m benchmarks.manners --model qwen2.5-coder-0.5b             # the one that is shipped

The exams of a home begin after lesson zero, so no gate ever sees its price: this does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import about, begin, options, print_table, write_json


def price(before: Any, after: Any) -> dict[str, Any]:
    """The panel's loss in percent, and each part before and after."""
    parts = {
        name: {
            "before": before.parts[name].to_dict(),
            "after": score.to_dict(),
        }
        for name, score in after.parts.items()
    }
    return {
        "loss_before": before.loss,
        "loss_after": after.loss,
        "loss_percent": after.change_percent(before),
        "parts": parts,
    }


def main() -> int:
    """Run the panel twice and write both results."""
    parser = options(__doc__, "manners-price")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--adapter", type=Path, help="lesson zero (default: the shipped one)")
    parser.add_argument("--panel", default="default", help="default or quick")
    parser.add_argument("--parts", default="", help="parts of the panel, by commas (default: all)")
    args = parser.parse_args()
    from engrain.exam.panel import load_panel, run_panel
    from engrain.learn.fold import fold_into
    from engrain.lesson.zero import shipped
    from engrain.model.adapter import Adapter
    from engrain.model.engine import Engine
    from engrain.model.loading import load_model

    with tempfile.TemporaryDirectory() as folder:
        loaded = load_model(begin(args, Path(folder)), dtype=args.dtype)
    found = shipped(loaded.base_digest)
    if args.adapter is None and found is None:
        sys.exit("No lesson zero of this base is shipped: give --adapter.")
    raw = args.adapter.read_bytes() if args.adapter else found and found.adapter
    panel = load_panel(args.panel)
    parts = [name for name in args.parts.split(",") if name] or None
    engine, results, began = Engine(loaded), [], time.perf_counter()
    for adapters in ([], [Adapter.from_bytes(raw)]):
        if adapters:
            fold_into(loaded, adapters[0])
            engine.set_state("with lesson zero")
        results.append(run_panel(engine, panel, parts=parts))
        print(f"  {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    figures = price(*results)
    rows = [["loss", f"{figures['loss_percent']:+.2f}%", ""]]
    for name, pair in figures["parts"].items():
        rows.append([name, f"{pair['before']['value']:.3f}", f"{pair['after']['value']:.3f}"])
    print_table("lesson zero", ("what", "before", "after"), rows)
    write_json(args.json, {**about(args), **figures, "panel_digest": panel.digest})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
