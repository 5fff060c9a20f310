"""How likely texts are: sums of log-probabilities of continuations, mean losses of whole texts."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from engrain.errors import UnsupportedModelError
from engrain.model.cache import new_cache
from engrain.model.forward import Forward
from engrain.model.rows import batches

TOGETHER = 256
"""Tokens of a text whose logits are held at once."""
MAX_LOGITS = 1 << 26
"""Logits that are held at once when whole texts are scored (256 MiB in fp32)."""

Pair = tuple[list[int], list[int]]
"""The tokens of a prompt, and those of what follows it."""


def log_likelihood(
    forward: Forward, pairs: Sequence[Pair], batch_size: int, key: Hashable = None
) -> list[tuple[float, int]]:
    """Sum of log p of each continuation's tokens given its prompt, and how many they are.

    Continuations of one prompt that differ in their last token alone, as "yes" and "no" do, are
    computed once. ``key`` is that of :meth:`Forward.begun`.
    """
    results: list[tuple[float, int]] = [(0.0, 0)] * len(pairs)
    stems: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for index, (prompt, continuation) in enumerate(pairs):
        if continuation:
            stems.setdefault((tuple(prompt), tuple(continuation[:-1])), []).append(index)
    chosen = sorted(stems, key=lambda stem: (len(stem[0]), len(stem[1]), stems[stem]))
    lengths = [len(prompt) + len(rest) + 1 for prompt, rest in chosen]
    for batch in batches(range(len(chosen)), lengths, batch_size):
        rows = [
            (list(prompt), list(rest), [pairs[i][1][-1] for i in stems[prompt, rest]])
            for prompt, rest in (chosen[place] for place in batch)
        ]
        for place, (sums, count) in zip(batch, _score(forward, rows, key), strict=True):
            for index, total in zip(stems[chosen[place]], sums, strict=True):
                results[index] = (total, count)
    return results


def _score(
    forward: Forward, rows: Sequence[tuple[list[int], list[int], list[int]]], key: Hashable
) -> list[tuple[list[float], int]]:
    """For each prompt, what follows and the last tokens it may have: sums, tokens of each."""
    prompts = [prompt for prompt, _, _ in rows]
    results = []
    with torch.inference_mode():
        read = _known(forward, prompts, [rest for _, rest, _ in rows], key)
        for (_, rest, ends), known in zip(rows, read, strict=True):
            wanted = torch.tensor(rest, dtype=torch.long, device=known.device)[:, None]
            before = known[:-1].gather(1, wanted).double().sum()
            results.append(
                ([float(before + known[-1, end].double()) for end in ends], len(rest) + 1)
            )
    return results


def expected(
    forward: Forward, prompt: str, texts: Sequence[str], most: int, key: Hashable = None
) -> list[list[tuple[int, int, float, list[str]]]]:
    """For each token of texts that follow a prompt: begin, end, nats, the likeliest in its place.

    Where a token begins and ends is told in characters of its text. ``key`` is that of
    :meth:`Forward.begun`.

    Raises:
        UnsupportedModelError: the tokenizer does not tell where its tokens lie.
    """
    tokenizer = _placing(forward)
    size = len(prompt)
    rows, places = [], []
    for text in texts:
        whole = tokenizer(prompt + text, add_special_tokens=False, return_offsets_mapping=True)
        rows.append([int(token) for token in whole["input_ids"]])
        places.append([(max(0, a - size), b - size) for a, b in whole["offset_mapping"]])
    # The first token of all is foreseen by none.
    begins = [max(1, sum(end <= 0 for _, end in own)) for own in places]
    found: list[list[tuple[int, int, float, list[str]]]] = [[] for _ in rows]
    order = sorted(
        (i for i, row in enumerate(rows) if len(row) > begins[i]), key=lambda i: (len(rows[i]), i)
    )
    longest = max((len(rows[i]) - begins[i] for i in order), default=1)
    held = max(1, min(32, MAX_LOGITS // (longest * forward.loaded.profile.vocab_size)))
    for batch in batches(order, [len(row) for row in rows], held):
        prompts = [rows[i][: begins[i]] for i in batch]
        rests = [rows[i][begins[i] : -1] for i in batch]
        with torch.inference_mode():
            for i, known in zip(batch, _known(forward, prompts, rests, key), strict=True):
                likeliest = known.topk(most, dim=-1).indices.tolist()
                for at, others in enumerate(likeliest, begins[i]):
                    words = [_after(tokenizer, rows[i][at - 1], other) for other in others]
                    nats = -float(known[at - begins[i], rows[i][at]])
                    found[i].append((*places[i][at], nats, words))
    return found


def _known(
    forward: Forward, prompts: Sequence[list[int]], rests: Sequence[list[int]], key: Hashable
) -> Iterator[Tensor]:
    """Log p of what stands at each place behind a prompt and of what follows: (tokens, words)."""
    cache, shared = forward.begun(prompts, key)
    inputs = [prompt + rest for prompt, rest in zip(prompts, rests, strict=True)]
    ids, own = forward.padded([row[shared:] for row in inputs], left=False)
    first = min(map(len, prompts)) - 1 - shared
    how: dict[str, Any] = {"keep": torch.arange(first, ids.shape[1], device=ids.device)}
    if shared:
        columns = torch.arange(shared, shared + ids.shape[1], device=ids.device)
        how |= {"cache": cache, "positions": columns.expand(len(inputs), -1)}
    mask = torch.cat([own.new_ones(len(inputs), shared), own], dim=1)
    logits = forward(ids, mask, **how)
    for row, (prompt, rest) in enumerate(zip(prompts, rests, strict=True)):
        start = len(prompt) - 1 - shared - first
        yield log_softmax(logits[row, start : start + len(rest) + 1].float(), dim=-1)


def _after(tokenizer: Any, before: int, token: int) -> str:
    """A token as it reads behind another: by itself it may lose the space that it begins with."""
    stem = tokenizer.decode([before])
    return str(tokenizer.decode([before, token]))[len(stem) :]


def _placing(forward: Forward) -> Any:
    """The tokenizer, if it tells where its tokens lie."""
    tokenizer = forward.loaded.tokenizer
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            f"The tokenizer of {forward.loaded.source} does not tell where its tokens lie.",
            remedy="Use a model with a tokenizer.json.",
        )
    return tokenizer


def surprise(forward: Forward, text: str) -> list[tuple[int, int, float]]:
    """Where each token of a raw text begins and ends, and -log p of it; the first has 0 nats.

    Raises:
        UnsupportedModelError: the tokenizer does not tell where its tokens lie.
    """
    encoded = _placing(forward)(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, _ = forward.padded([list(encoded["input_ids"])], left=False)
    cache = new_cache(forward.loaded.model, forward.loaded.profile)
    nats = [0.0]
    with torch.inference_mode():
        for at in range(0, ids.shape[1] - 1, TOGETHER):
            part, targets = ids[:, at : at + TOGETHER], ids[0, at + 1 : at + 1 + TOGETHER]
            columns = torch.arange(at, at + part.shape[1], device=ids.device)[None]
            mask = ids.new_ones(1, at + part.shape[1])
            logits = forward(part, mask, cache=cache, positions=columns, keep=None)[0]
            nats += cross_entropy(
                logits[: len(targets)].float(), targets, reduction="none"
            ).tolist()
    places = encoded["offset_mapping"]
    return [(start, end, n) for (start, end), n in zip(places, nats, strict=False)]


def loss(forward: Forward, rows: Sequence[list[int]], limit: int) -> float:
    """Mean nats a token of token sequences of at most ``limit`` tokens; nan where there is none."""
    rows = [row for row in rows if len(row) > 1]
    total, count = 0.0, 0
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    most = max(1, MAX_LOGITS // (limit * forward.loaded.profile.vocab_size))
    for batch in batches(order, [len(row) for row in rows], min(32, most)):
        chosen = [rows[i] for i in batch]
        ids, mask = forward.padded(chosen, left=False)
        with torch.inference_mode():
            logits = forward(ids, mask, keep=None)[:, :-1]
            targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
            losses = cross_entropy(
                logits.float().flatten(0, 1), targets.flatten(), reduction="none"
            )
            total += float(losses.double().sum())
        count += sum(len(row) - 1 for row in chosen)
    return total / count if count else float("nan")
