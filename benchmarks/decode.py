"""Tokens a second: the engine against transformers' ``generate`` and llama.cpp.

A randomly initialised model of a real shape (:mod:`benchmarks.shapes`), or the pocket model,
continues a prompt of 128 tokens greedily by 128 tokens; what counts is the time from the first new
token to the last. Every peer runs in a process of its own, and their repeats alternate. llama.cpp
gets the same weights at the same precision as a GGUF file and needs a Python with
``llama-cpp-python`` and ``gguf``.

    python -m benchmarks.decode [--peer-python /tmp/venv-llama/bin/python] [--add]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ROOT, about, options, print_table, read_json, write_json

HEADLINE = "smollm2-135m"
PRECISION = {"float32": ("f32",), "bfloat16": ("bf16", "f16")}
"""What llama.cpp is given for each type of ours."""
SHARE = 4
"""Batches generate this many times fewer tokens than a single row."""


def load(shape: str, dtype: str) -> Any:
    """The model of a shape as the engine takes it; random weights are the same every time."""
    from engrain.model.loading import assemble, load_model

    if shape == "pocket":
        return load_model("pocket", dtype=dtype)
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.shapes import SHAPES
    from engrain.model.testing import byte_tokenizer

    torch.manual_seed(0)
    config = SHAPES[shape].config()
    # Wider than usual, so that greedy choices are clear and two programs can be compared.
    config.initializer_range = 0.05
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    return assemble(model, byte_tokenizer(), source=shape, base_digest=shape)


def prompt_ids(row: int, length: int) -> list[int]:
    """A prompt of random tokens that every vocabulary here has."""
    import random

    chance = random.Random(row)
    return [chance.randrange(300, 8000) for _ in range(length)]


# Workers: one process a peer


def serve_torch(args: argparse.Namespace) -> Iterator[Any]:
    """The engine or transformers; gives a function that answers one request."""
    import torch

    from engrain.model.engine import Engine
    from engrain.model.rows import Row
    from engrain.model.threads import set_threads

    set_threads(args.threads or None)
    loaded = load(args.shape, args.dtype)
    loaded.stop_ids = ()
    model, engine = loaded.model, Engine(loaded)

    def by_engine(batch: int, tokens: int) -> tuple[float, list[int]]:
        if batch == 1:
            row = Row(0, prompt_ids(0, args.prompt), tokens)
            stream = engine._tokens(row, temperature=0.0, top_p=1.0)
            next(stream)
            began = time.perf_counter()
            for _ in stream:
                pass
            seconds = time.perf_counter() - began
            engine.cache.clear()
            return seconds, row.new

        def once(room: int) -> tuple[float, list[int]]:
            rows = [Row(i, prompt_ids(i, args.prompt), room) for i in range(batch)]
            began = time.perf_counter()
            engine._run(rows, temperature=0.0, top_p=1.0, batch_size=batch)
            return time.perf_counter() - began, rows[0].new

        first, _ = once(1)
        seconds, new = once(tokens)
        return seconds - first, new

    @torch.inference_mode()
    def by_generate(batch: int, tokens: int, **more: Any) -> tuple[float, list[int]]:
        ids = torch.tensor([prompt_ids(i, args.prompt) for i in range(batch)])

        def once(count: int) -> tuple[float, list[int]]:
            began = time.perf_counter()
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                **more,
            )
            return time.perf_counter() - began, out[0, ids.shape[1] :].tolist()

        first, _ = once(1)
        seconds, new = once(tokens)
        return seconds - first, new

    def read_bandwidth() -> float:
        big = torch.ones(1 << 27)
        best = 0.0
        for _ in range(5):
            began = time.perf_counter()
            big.sum()
            best = max(best, big.numel() * 4 / (time.perf_counter() - began))
        return best

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request.get("bandwidth"):
            return {"bandwidth": read_bandwidth()}
        if request.get("about"):
            # A tied embedding is read once a token, by the output layer; an untied one hardly.
            read = sum(p.numel() * p.element_size() for p in model.parameters())
            if not loaded.profile.tied:
                weight = model.get_input_embeddings().weight
                read -= weight.numel() * weight.element_size()
            return {
                "bytes": read,
                "fast_decode": engine.fast_decode,
                "reason": engine.fast_decode_reason,
            }
        if args.worker == "engine":
            seconds, new = by_engine(request["batch"], request["tokens"])
        elif args.worker == "generate":
            seconds, new = by_generate(request["batch"], request["tokens"])
        else:
            seconds, new = by_generate(
                request["batch"],
                request["tokens"],
                cache_implementation="static",
                disable_compile=True,
            )
        return {"seconds": seconds, "new": new}

    yield answer


def serve_llama(args: argparse.Namespace) -> Iterator[Any]:
    """llama.cpp through its Python binding."""
    from llama_cpp import Llama

    model = Llama(
        str(args.gguf),
        n_ctx=args.prompt + args.tokens + 8,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        n_gpu_layers=0,
        verbose=False,
    )

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        stream = model.generate(prompt_ids(0, args.prompt), temp=0.0, repeat_penalty=1.0)
        new = [next(stream)]
        began = time.perf_counter()
        while len(new) < request["tokens"]:
            new.append(next(stream))
        return {"seconds": time.perf_counter() - began, "new": new}

    yield answer


def export(args: argparse.Namespace) -> None:
    """Write the weights as numpy arrays, for the process that knows GGUF but not torch."""
    import numpy as np

    loaded = load(args.shape, "float32")
    config = loaded.model.config
    arrays = {n: p.detach().float().numpy() for n, p in loaded.model.named_parameters()}
    np.savez(args.gguf, **arrays)
    args.gguf.with_suffix(".json").write_text(json.dumps(config.to_dict(), default=str))


def write_gguf(args: argparse.Namespace) -> None:
    """Write a model of Llama's or Qwen3's kind as GGUF, with a vocabulary of placeholders."""
    import gguf
    import numpy as np

    source = args.gguf.with_suffix(".npz")
    config = json.loads(args.gguf.with_suffix(".json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(str(args.gguf), config["model_type"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(float(config["rope_parameters"]["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    count = config["vocab_size"]
    # The reader of this kind of vocabulary looks for one token of every byte.
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    names += [f"t{i}" for i in range(len(names), count)]
    kinds += [gguf.TokenType.NORMAL] * (count - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * count)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    kind = gguf.GGMLQuantizationType[args.precision.upper()]

    def add(name: str, array: Any) -> None:
        # Norms stay fp32 in every file of this format.
        chosen = kind if array.ndim > 1 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(np.ascontiguousarray(array), chosen)
        writer.add_tensor(name, data, raw_dtype=chosen)

    def interleaved(array: Any, count: int) -> Any:
        # In Llamas llama.cpp turns neighbouring rows of a head, transformers its two halves.
        if config["model_type"] != "llama":
            return array
        shape = (count, 2, head_dim // 2, array.shape[1])
        return array.reshape(shape).swapaxes(1, 2).reshape(array.shape)

    arrays = np.load(source)
    add("token_embd.weight", arrays["model.embed_tokens.weight"])
    add("output_norm.weight", arrays["model.norm.weight"])
    if "lm_head.weight" in arrays:
        add("output.weight", arrays["lm_head.weight"])
    places = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in places.items():
            name = f"model.layers.{layer}.{ours}.weight"
            if name not in arrays:
                continue
            array = arrays[name]
            if theirs in ("attn_q", "attn_k"):
                array = interleaved(array, heads if theirs == "attn_q" else kv_heads)
            add(f"blk.{layer}.{theirs}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def work(args: argparse.Namespace) -> int:
    """Be a worker: answer a line of JSON on the input with one on the output."""
    if args.worker == "export":
        export(args)
        return 0
    if args.worker == "gguf":
        write_gguf(args)
        return 0
    serve = serve_llama if args.worker == "llama" else serve_torch
    answer = next(serve(args))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
    return 0


# The parent


class Peer:
    """A worker process, which sleeps while others are measured."""

    def __init__(self, python: str, words: list[str]) -> None:
        command = [python, "-m", "benchmarks.decode", *words]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.alive = self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request."""
        assert self._process.stdin is not None
        # Threads of the peer before may still be spinning in wait for work.
        time.sleep(0.4)
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._line())
        return found

    def close(self) -> str:
        """End the worker; what it wrote to its error output."""
        _, errors = self._process.communicate()
        return errors


@contextmanager
def peers(args: argparse.Namespace, shape: str, dtype: str, folder: Path) -> Iterator[Any]:
    """The workers of one case by name, and why any are missing."""
    words = ["--shape", shape, "--dtype", dtype, "--threads", str(args.threads)]
    words += ["--prompt", str(args.prompt), "--tokens", str(args.tokens)]
    found, missing = {}, {}
    for name in ("engine", "generate", "static"):
        found[name] = Peer(sys.executable, ["--worker", name, *words])
    for precision in PRECISION[dtype]:
        try:
            file = gguf_file(args, shape, precision, folder, words)
            extra = ["--worker", "llama", "--gguf", str(file)]
            found[f"llama.cpp {precision}"] = Peer(args.peer_python, [*extra, *words])
        except (OSError, subprocess.CalledProcessError) as error:
            text = getattr(error, "stderr", "") or str(error)
            missing[f"llama.cpp {precision}"] = text.strip().splitlines()[-1]
    for name in [name for name, peer in found.items() if not peer.alive]:
        missing[name] = (found.pop(name).close().strip().splitlines() or ["it did not start"])[-1]
    try:
        yield found, missing
    finally:
        for peer in found.values():
            peer.close()


def gguf_file(
    args: argparse.Namespace, shape: str, precision: str, folder: Path, words: list[str]
) -> Path:
    """The GGUF file of a shape; written once."""
    target = folder / f"{shape}-{precision}.gguf"
    if target.exists():
        return target
    source = folder / f"{shape}-{precision}.npz"
    for python, worker, file in (
        (sys.executable, "export", source),
        (args.peer_python, "gguf", target),
    ):
        more = ["--worker", worker, "--gguf", str(file), "--precision", precision]
        subprocess.run(
            [python, "-m", "benchmarks.decode", *more, *words],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
    source.unlink()
    return target


def measure(args: argparse.Namespace, shape: str, dtype: str, folder: Path) -> list[dict[str, Any]]:
    """All batches of one shape and type."""
    cases = []
    with peers(args, shape, dtype, folder) as (found, missing):
        facts = found["engine"].ask(about=True)
        for batch in args.batches:
            tokens = args.tokens if batch == 1 else args.tokens // SHARE
            running = {n: p for n, p in found.items() if batch == 1 or n in ("engine", "generate")}
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in running}
            read = []
            for repeat in range(args.repeats + 1):
                # What other machines on the same memory leave over changes from minute to minute.
                read.append(found["engine"].ask(bandwidth=True)["bandwidth"])
                for name, peer in running.items():
                    result = peer.ask(batch=batch, tokens=tokens)
                    if repeat:
                        runs[name].append(result)
            speed = {
                name: [batch * (tokens - 1) / run["seconds"] for run in results]
                for name, results in runs.items()
            }
            ours, bandwidth = speed["engine"], median(read)
            own = runs["engine"][0]["new"]
            cases.append(
                {
                    "shape": shape,
                    "dtype": dtype,
                    "batch": batch,
                    "tokens": tokens,
                    "weights_bytes": facts["bytes"],
                    "bandwidth": bandwidth,
                    "fast_decode": facts["fast_decode"],
                    "fast_decode_reason": facts["reason"],
                    "missing": missing,
                    "tokens_per_second": {name: median(s) for name, s in speed.items()},
                    "repeats": speed,
                    # Steps a second, since a batch reads the weights once for all rows.
                    "bandwidth_fraction": {
                        name: median(s) / batch * facts["bytes"] / bandwidth
                        for name, s in speed.items()
                    },
                    "speedup": {
                        name: median(a / b for a, b in zip(ours, s, strict=True))
                        for name, s in speed.items()
                        if name != "engine"
                    },
                    "same_leading_tokens": {
                        name: next(
                            (
                                i
                                for i, (a, b) in enumerate(zip(own, results[0]["new"], strict=True))
                                if a != b
                            ),
                            tokens,
                        )
                        for name, results in runs.items()
                    },
                }
            )
    return cases


def main() -> int:
    """Parse the arguments, measure, write."""
    if importlib.util.find_spec("torch") is None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--threads", type=int, default=0)
    else:
        parser = options(__doc__, "decode")
    parser.add_argument("--shape", nargs="+", default=["smollm2-135m", "pocket"])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--tokens", type=int, default=128, help="new ones of a single row")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable, help="has llama-cpp-python, gguf")
    parser.add_argument("--folder", type=Path, help="keeps the GGUF files")
    parser.add_argument("--add", action="store_true", help="keep other cases of the JSON file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--gguf", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        args.shape, args.dtype = args.shape[0], args.dtype[0]
        return work(args)
    from engrain.model.threads import default_threads

    args.threads = args.threads or default_threads()
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        cases = [
            case
            for shape in args.shape
            for dtype in args.dtype
            for case in measure(args, shape, dtype, folder)
        ]
    if args.add:
        new = {(c["shape"], c["dtype"], c["batch"]) for c in cases}
        old = read_json(args.json).get("cases", [])
        cases = [c for c in old if (c["shape"], c["dtype"], c["batch"]) not in new] + cases
    shapes = [case["shape"] for case in cases]
    # Cases are added in any order: the headline is of one shape wherever it is there.
    first = HEADLINE if HEADLINE in shapes else shapes[0]
    record: dict[str, Any] = {**about(args)}
    for case in cases:
        if case["shape"] == first and case["batch"] == 1:
            end = "" if case["dtype"] == "float32" else f"_{case['dtype']}"
            llama = [v for name, v in case["speedup"].items() if name.startswith("llama.cpp")]
            record[f"speedup_vs_generate{end}"] = case["speedup"]["generate"]
            record[f"speedup_vs_generate_static{end}"] = case["speedup"]["static"]
            record[f"speedup_vs_llama_cpp{end}"] = min(llama, default=None)
            record[f"bandwidth_fraction{end}"] = case["bandwidth_fraction"]["engine"]
    record["cases"] = cases
    path = write_json(args.json, record)
    print_table(
        "Decoding, tokens a second (median)",
        (
            "model",
            "type",
            "batch",
            "peer",
            "tokens/s",
            "engine is faster by",
            "of bandwidth",
            "same",
        ),
        [
            (
                case["shape"],
                case["dtype"],
                case["batch"],
                name,
                speed,
                case["speedup"].get(name),
                case["bandwidth_fraction"][name],
                case["same_leading_tokens"][name],
            )
            for case in cases
            for name, speed in case["tokens_per_second"].items()
        ],
    )
    for case in cases[:: len(args.batches)]:
        for name, why in case["missing"].items():
            print(f"{case['shape']} {case['dtype']}: no {name} ({why})")
    print(f"\nMemory is read at {cases[-1]['bandwidth'] / 1e9:.1f} GB/s.\n{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
