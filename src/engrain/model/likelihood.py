"""How likely texts are: sums of log-probabilities of continuations, mean losses of whole texts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy, log_softmax

from engrain.model.forward import Forward
from engrain.model.rows import batches

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
    inputs = [prompt + rest for prompt, rest, _ in rows]
    with torch.inference_mode():
        cache, shared = forward.begun([prompt for prompt, _, _ in rows], key)
        ids, own = forward.padded([row[shared:] for row in inputs], left=False)
        first = min(len(prompt) for prompt, _, _ in rows) - 1 - shared
        how: dict[str, Any] = {"keep": torch.arange(first, ids.shape[1], device=ids.device)}
        if shared:
            columns = torch.arange(shared, shared + ids.shape[1], device=ids.device)
            how |= {"cache": cache, "positions": columns.expand(len(rows), -1)}
        mask = torch.cat([own.new_ones(len(rows), shared), own], dim=1)
        logits = forward(ids, mask, **how)
        results = []
        for row, (prompt, rest, ends) in enumerate(rows):
            start = len(prompt) - 1 - shared - first
            known = log_softmax(logits[row, start : start + len(rest) + 1].float(), dim=-1)
            wanted = torch.tensor(rest, dtype=torch.long, device=known.device)[:, None]
            before = known[:-1].gather(1, wanted).double().sum()
            results.append(
                ([float(before + known[-1, end].double()) for end in ends], len(rest) + 1)
            )
    return results


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
