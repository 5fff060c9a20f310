"""The peers of a training step: transformers' Trainer, and TRL's SFTTrainer with PEFT's LoRA.

Run by :mod:`benchmarks.measure`, one contestant a process. Saving, logging and reporting are off
for all; whatever else is not named here is the library's default.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure import Meter, serve, touch

IGNORED = -100
"""The label of a token that is not learned, as transformers has it."""
PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "datasets")


def variants(bf16: bool) -> dict[str, dict[str, Any]]:
    """Trainer's settings that may be its best on this machine, by name.

    bf16 weights, or fp32 weights under bf16 autocast, where the processor multiplies bf16. Each
    with and without gradient checkpointing; and again with logits for the learned tokens alone,
    which Trainer's arguments can't say but a collator of one's own can.
    """
    types = {"bf16": ("bfloat16", False), "autocast": ("float32", True)}
    chosen = types if bf16 else {"fp32": ("float32", False)}
    return {
        "-".join(["trainer", name, *(["gc"] if again else []), *(["few"] if few else [])]): {
            "kind": "trainer",
            "dtype": dtype,
            "autocast": autocast,
            "arguments": {"optim": "adamw_torch_fused", "gradient_checkpointing": again},
            "few_logits": few,
        }
        for few in (False, True)
        for name, (dtype, autocast) in chosen.items()
        for again in (False, True)
    }


def contestants(bf16: bool) -> dict[str, dict[str, Any]]:
    """The peers whose settings need no choosing, by name."""
    lora = {"kind": "trl", "dtype": "bfloat16" if bf16 else "float32", "autocast": bf16}
    return {
        "trainer-default": {"kind": "trainer", "dtype": "float32", "arguments": {}},
        "trl-lora": {**lora, "arguments": {}},
        "trl-lora-no-gc": {**lora, "arguments": {"gradient_checkpointing": False}},
    }


def work(request: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """Load, train for some steps, tell what it took."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
    from transformers.utils import logging

    logging.disable_progress_bar()

    if request["kind"] == "trl":
        import trl

        trainer_class: Any = trl.SFTTrainer
        arguments_class: Any = trl.SFTConfig
    else:
        trainer_class, arguments_class = Trainer, TrainingArguments
    meter.importing_done()
    model: Any = AutoModelForCausalLM.from_pretrained(
        request["model"], dtype=getattr(torch, request["dtype"]), local_files_only=True
    )
    meter.loaded(touch(model))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "output_dir": folder,
            "use_cpu": True,
            "per_device_train_batch_size": request.get("batch_size", 1),
            "max_steps": request["steps"],
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "bf16": bool(request.get("autocast")),
            **request["arguments"],
        }
        if request["kind"] == "trl":
            trainer = _sft(trainer_class, arguments_class, arguments, model, request)
        else:
            trainer = trainer_class(
                model=model,
                args=arguments_class(**arguments),
                train_dataset=_rows(request),
                data_collator=_few_logits if request.get("few_logits") else None,
            )
        trainer.add_callback(_clock(meter))
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return {"run_seconds": seconds, "trained": trained, "versions": _versions()}


def _sft(
    trainer_class: Any,
    arguments_class: Any,
    arguments: dict[str, Any],
    model: Any,
    request: Mapping[str, Any],
) -> Any:
    """SFTTrainer with a LoRA of rank 16 on all linear maps, and the loss on completions alone."""
    import datasets
    import peft
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    texts: Sequence[Mapping[str, Any]] = request.get("texts", ())
    if texts:
        rows = [{"prompt": t["messages"][:-1], "completion": t["messages"][-1:]} for t in texts]
    else:
        context = len(request["ids"]) - request["targets"]
        mask = [0] * context + [1] * request["targets"]
        rows = [{"input_ids": request["ids"], "completion_mask": mask}] * request["steps"]
    return trainer_class(
        model=model,
        args=arguments_class(**arguments, completion_only_loss=True, max_length=None),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(request["model"], local_files_only=True),
        peft_config=peft.LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )


def _rows(request: Mapping[str, Any]) -> list[dict[str, list[int]]]:
    """The one example, once for each step."""
    ids: list[int] = request["ids"]
    context = len(ids) - request["targets"]
    labels = [IGNORED] * context + ids[context:]
    return [{"input_ids": ids, "labels": labels}] * int(request["steps"])


def _few_logits(rows: Sequence[Mapping[str, list[int]]]) -> dict[str, Any]:
    """A batch for which the model makes logits from the token before the first target on."""
    import torch

    labels = torch.tensor([row["labels"] for row in rows])
    learned = int((labels != IGNORED).sum(-1).max())
    return {
        "input_ids": torch.tensor([row["input_ids"] for row in rows]),
        "labels": labels[:, -learned - 1 :],
        "logits_to_keep": learned + 1,
    }


def _clock(meter: Meter) -> Any:
    """A callback that times each step: forward, backward, clipping and update."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.step(time.perf_counter() - self.began)

    return Clock()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


if __name__ == "__main__":
    raise SystemExit(serve(work))
