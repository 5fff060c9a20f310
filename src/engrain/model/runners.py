"""What was exported, run as others will run it: plain transformers, plain PEFT, llama.cpp.

Nothing of the engine is used, so that a mistake of the export can't be made twice: the prompt comes
from the written template, the tokens from the written tokenizer, the answer from the other's loop.
llama.cpp is run through the wheel ``xllamacpp`` where that is installed, in a process of its own
since it ends its process over a file that it can't read; where it is not installed, transformers'
own reader of GGUF files stands in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from engrain.data.messages import Message
from engrain.errors import ExportError
from engrain.model.loading import quiet

Prompts = Sequence[Sequence[Message]]
"""Conversations that are to be answered greedily."""


def transformers_answers(
    folder: Path, prompts: Prompts, most: int, *, gguf: str | None = None
) -> list[str]:
    """What a model's folder, or a GGUF file in it, answers in plain transformers.

    ``most`` is the number of tokens of an answer, here and below.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    how: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32 if gguf else "auto", local_files_only=True, **how
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **how)
        return _generated(model, tokenizer, prompts, most)


def peft_answers(
    base: Path,
    folder: Path,
    prompts: Prompts,
    most: int,
    *,
    dtype: torch.dtype,
    stop_ids: Sequence[int],
) -> list[str]:
    """What an adapter's folder on its base answers in plain PEFT, in the type of the serving.

    An adapter says nothing of where an answer ends, so ``stop_ids`` do.
    """
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        wrapped = peft.PeftModel.from_pretrained(model, str(folder))
        return _generated(wrapped, tokenizer, prompts, most, eos_token_id=list(stop_ids) or None)


@torch.inference_mode()
def _generated(model: Any, tokenizer: Any, prompts: Prompts, most: int, **how: Any) -> list[str]:
    model.eval()
    answers = []
    for messages in prompts:
        text = tokenizer.apply_chat_template(
            [message.to_dict() for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        given = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        ids, mask = given["input_ids"], given["attention_mask"]
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=most,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            **how,
        )
        said = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        answers.append(str(said).strip())
    return answers


def has_llama_cpp() -> bool:
    """Whether llama.cpp can be run."""
    return find_spec("xllamacpp") is not None


def llama_cpp_answers(
    file: Path, prompts: Prompts, most: int, *, adapter: Path | None = None, length: int = 2048
) -> list[str]:
    """What a GGUF file, with an adapter's on top if one is given, answers in llama.cpp itself.

    Raises:
        ExportError: llama.cpp refuses the file, or does not answer.
    """
    with tempfile.TemporaryDirectory() as place:
        answers = Path(place) / "answers.json"
        task = {
            "file": str(file),
            "adapter": str(adapter) if adapter else None,
            "length": length,
            "threads": torch.get_num_threads(),
            "prompts": [[message.to_dict() for message in messages] for messages in prompts],
            "most": most,
            "answers": str(answers),
        }
        done = subprocess.run(
            [sys.executable, "-m", "engrain.model.runners"],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if done.returncode or not answers.is_file():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise ExportError(
                f"llama.cpp can't run {file}: {said[-1][:300] if said else done.returncode}",
                remedy="Report this, with the model's name; the file was written.",
            )
        return list(json.loads(answers.read_text(encoding="utf-8")))


def _run_llama_cpp(task: dict[str, Any]) -> None:
    """The work of the other process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = task["file"]
    params.n_ctx, params.n_parallel, params.n_gpu_layers = task["length"], 1, 0
    params.warmup, params.cpuparams.n_threads = False, task["threads"]
    params.cpuparams_batch.n_threads = task["threads"]
    if task["adapter"]:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(task["adapter"], 1.0)]
    server, answers = xllamacpp.Server(params), []
    for messages in task["prompts"]:
        said = server.handle_chat_completions(
            {
                "messages": messages,
                "max_tokens": task["most"],
                "temperature": 0.0,
                "top_k": 1,
                "cache_prompt": False,
                "chat_template_kwargs": {"enable_thinking": False},
            }
        )
        answers.append(str(said["choices"][0]["message"]["content"] or "").strip())
    Path(task["answers"]).write_text(json.dumps(answers), encoding="utf-8")
    # The server's threads are in no hurry to end.
    os._exit(0)


if __name__ == "__main__":
    _run_llama_cpp(json.loads(sys.stdin.read()))
