"""The engine: answers, continuations and likelihoods of one loaded model.

It renders messages with the tokenizer's own template and steps the model itself, so that a result
depends only on the weights, the request and the machine. Its one lasting cache, of the last
conversation, is bound to the digest of the weights that filled it.

A token is defined by the model's own forward over the whole sequence: one row, no cache. Batches,
caches and the compact forward differ from that in the last bits; a choice that such a difference
could turn is made again by the definition, so none of them changes an answer. In types of few
digits, such as bf16, a large part of all choices is that close: there prompts are read one by one
and only rows of one length go on together, which kernels compute alike in any company, so that no
batch changes a greedy answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from engrain.data.messages import Message
from engrain.data.templates import render
from engrain.errors import UsageError
from engrain.model.agreement import Agreement, measure, padding_bias, read
from engrain.model.cache import PrefixCache, Remembered, joined, new_cache
from engrain.model.context import Context, check_context, compute_context, extend
from engrain.model.decode import Plan
from engrain.model.forward import Forward
from engrain.model.likelihood import expected, log_likelihood, loss, surprise
from engrain.model.loading import LoadedModel
from engrain.model.rows import Row, batches, cut, repeats
from engrain.model.sampling import (
    TextDecoder,
    choose,
    choose_settled,
    decode,
    decode_after,
    row_uniforms,
)

SAFETY = 16
"""How many times the measured deviation a logit is taken to be uncertain by."""


class Engine:
    """Generates and scores text with the live weights of a loaded model.

    ``state_digest`` names the weights in force; whoever changes them calls :meth:`set_state`.
    """

    def __init__(self, loaded: LoadedModel, *, state_digest: str = "") -> None:
        self.loaded = loaded
        self.cache = PrefixCache()
        self._state = state_digest or loaded.base_digest
        self._forward = Forward(loaded)
        self._agreement: Agreement | None = None
        self._fine = torch.finfo(loaded.dtype).eps <= torch.finfo(torch.float32).eps

    @property
    def state_digest(self) -> str:
        """The digest of the weights in force."""
        return self._state

    def set_state(self, digest: str) -> None:
        """Say that other weights are in force: what was cached under the old ones is dropped."""
        self._state = digest
        self.cache.drop_unless(self._cache_key())

    @property
    def fast_decode(self) -> bool:
        """Whether tokens are computed by the compact forward; see :attr:`fast_decode_reason`."""
        return self._plan() is not None

    @property
    def fast_decode_reason(self) -> str:
        """Why the compact forward is not used; empty where it is."""
        plan, reason = read(self.loaded)
        return reason if plan is None else self._agreed(plan).reason

    @contextmanager
    def untaught(self) -> Iterator[None]:
        """Answer with the weights that the model was loaded with, for a while."""
        before = self._state
        try:
            with self.loaded.untaught():
                self.set_state(self.loaded.base_digest)
                yield
        finally:
            self.set_state(before)

    # Generation

    def generate(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int = 48,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 32,
        prefixes: Sequence[str] | None = None,
        exact: bool = True,
        lists: bool = False,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Answer each conversation; the order of the answers is that of the prompts.

        ``prefixes`` are texts with which the answers have already begun; only what follows them is
        given. The same call gives the same answers, bit for bit, on the same machine. Without
        ``exact`` an answer may depend on what else is asked in the call, in the last bits of a
        choice, and many answers come sooner. With ``lists`` an answer is a list, which has ended
        where a line comes for the second time; one of the ``stop`` texts ends any answer before it.
        """
        if prefixes is not None and len(prefixes) != len(prompts):
            raise UsageError(
                f"{len(prefixes)} prefixes for {len(prompts)} prompts.",
                remedy="Give one prefix a prompt; an empty text where there is none.",
            )
        begun = list(prefixes or [""] * len(prompts))
        rows = [
            self._row(
                i,
                self.encode_chat(messages, prefix),
                max_new_tokens,
                temperature,
                seed,
                tuple(stop),
            )
            for i, (messages, prefix) in enumerate(zip(prompts, begun, strict=True))
        ]
        for row in rows:
            row.lists = lists
        how = {"temperature": temperature, "top_p": top_p}
        self._run(rows, **how, batch_size=batch_size, exact=exact)
        texts = [cut(self._text(row), row.stop) for row in rows]
        return [text if prefix else text.strip() for text, prefix in zip(texts, begun, strict=True)]

    def complete(
        self,
        texts: Sequence[str],
        *,
        max_new_tokens: int = 48,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        batch_size: int = 32,
    ) -> list[str]:
        """Continue raw texts, without a template; cut before the first of the ``stop`` texts."""
        rows = [
            self._row(i, self.encode_text(text), max_new_tokens, temperature, seed, tuple(stop))
            for i, text in enumerate(texts)
        ]
        self._run(rows, temperature=temperature, top_p=top_p, batch_size=batch_size)
        return [cut(self._text(row), row.stop) for row in rows]

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """Answer one conversation piece by piece, on the cache of its earlier turns.

        Pieces are whole characters and add up to the answer, white space at its ends included.
        """
        row = self._row(0, self.encode_chat(messages), max_new_tokens, temperature, seed)
        decoder = TextDecoder(self.loaded.tokenizer, row.prompt)
        for token in self._tokens(row, temperature=temperature, top_p=top_p):
            piece = decoder.push(token)
            if piece:
                yield piece
        rest = decoder.finish()
        if rest:
            yield rest

    # Scoring

    def log_likelihood(
        self, pairs: Sequence[tuple[str, str]], *, batch_size: int = 32, exact: bool = True
    ) -> list[tuple[float, int]]:
        """Sum of log p of each continuation's tokens given its prompt, and how many they are.

        Only positions that predict a continuation go through the output layer. Without ``exact``
        the last bits may depend on what was asked before: a conversation is read once for all.
        """
        encoded = [self._pair(prompt, continuation) for prompt, continuation in pairs]
        key = None if exact else self._cache_key()
        return log_likelihood(self._forward, encoded, batch_size, key)

    def surprise(self, text: str) -> list[tuple[int, int, float]]:
        """Where each token of a raw text begins and ends, in characters, and its nats.

        Raises:
            UnsupportedModelError: the model's tokenizer does not tell where its tokens lie.
        """
        return surprise(self._forward, text)

    def expected(
        self, prompt: str, texts: Sequence[str], *, most: int
    ) -> list[list[tuple[int, int, float, list[str]]]]:
        """For each token of texts behind a raw prompt: begin, end, nats, the likeliest there.

        The last bits may depend on what was asked before, as in :meth:`log_likelihood`.

        Raises:
            UnsupportedModelError: the model's tokenizer does not tell where its tokens lie.
        """
        return expected(self._forward, prompt, texts, most, self._cache_key())

    def loss(self, texts: Sequence[str], *, max_length: int = 256) -> float:
        """Mean nats a token over the first ``max_length`` tokens of each text; nan for no token."""
        limit = min(max_length, self.loaded.max_length)
        return loss(self._forward, [self.encode_text(text)[:limit] for text in texts], limit)

    # Contexts

    def context(self, ids: Sequence[int]) -> Context:
        """Keys and values of a conversation's first tokens under the weights in force.

        A view of the cache of the last conversation where that begins with them, or goes on with
        them; else they are computed. Nothing that serving does later changes what was given.

        Raises:
            UnsupportedModelError: the model's attention keeps more than keys and values.
        """
        check_context(self.loaded)
        wanted, key = list(ids), self._cache_key()
        entry = self.cache.peek(key)
        if entry is None or entry.ids[: len(wanted)] != wanted[: len(entry.ids)]:
            return compute_context(self.loaded, [wanted], key)
        rest = torch.tensor([wanted[len(entry.ids) :]], dtype=torch.long)
        if rest.numel():
            extend(self.loaded, entry.cache, rest.to(self.loaded.device))
            entry.ids.extend(rest[0].tolist())
        return Context.view(entry.cache, len(wanted), key)

    # Encoding

    def encode_chat(self, messages: Sequence[Message], prefix: str = "") -> list[int]:
        """Token ids of a conversation up to where the assistant speaks."""
        text = render(self.loaded.tokenizer, messages, add_generation_prompt=True) + prefix
        return self._encode(text)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a raw text, begun as the model's texts begin; never empty."""
        tokenizer = self.loaded.tokenizer
        if any(text.startswith(token) for token in tokenizer.all_special_tokens):
            ids = self._encode(text)
        else:
            ids = [int(i) for i in tokenizer(text, add_special_tokens=True)["input_ids"]]
            # Some tokenisers end every text, too; a text that is to be continued has no end.
            while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
                ids.pop()
        return ids or [self._first_id()]

    def _encode(self, text: str) -> list[int]:
        ids = self.loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [int(i) for i in ids]

    def _first_id(self) -> int:
        first = self.loaded.tokenizer.bos_token_id
        if first is None:
            first = next(iter(self.loaded.stop_ids), 0)
        return int(first)

    def _pair(self, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
        # A space before a word is part of the word's first token.
        bare = prompt.rstrip(" ")
        continuation = prompt[len(bare) :] + continuation
        context = self.encode_text(bare)
        whole = self.encode_text(bare + continuation)
        # Together where that leaves the prompt's tokens alone; some tokenisers begin every text
        # with a space, which a continuation has not.
        together = bare and whole[: len(context)] == context
        target = whole[len(context) :] if together else self._encode(continuation)
        room = max(1, self.loaded.max_length - len(target))
        return context[-room:], target[: self.loaded.max_length - 1]

    def _row(
        self,
        index: int,
        ids: list[int],
        max_new_tokens: int,
        temperature: float,
        seed: int,
        stop: tuple[str, ...] = (),
    ) -> Row:
        limit = self.loaded.max_length
        room = max(0, min(max_new_tokens, limit - 1))
        # What a conversation ends with matters most, so a prompt that is too long loses its start.
        prompt = ids[-max(1, limit - room) :]
        uniforms = row_uniforms(seed, index, room) if temperature > 0 else None
        return Row(index, prompt, room, tuple(filter(None, stop)), uniforms, finished=room == 0)

    # Running

    def _run(
        self,
        rows: list[Row],
        *,
        temperature: float,
        top_p: float,
        batch_size: int,
        exact: bool = True,
    ) -> None:
        order = sorted((r.index for r in rows if not r.finished), key=lambda i: len(rows[i].prompt))
        lengths = [len(row.prompt) + row.room for row in rows]
        groups = [order]
        if apart := exact and temperature <= 0 and not self._fine:
            # With few digits every third choice would have to be made again. Kernels compute a row
            # alike whatever stands beside it, padding apart; what else there is does not.
            plan = self._plan()
            groups = [list(some) for _, some in groupby(order, lambda i: len(rows[i].prompt))]
            batch_size = batch_size if plan is not None and not plan.without_kernels else 1
        for group in groups:
            for batch in batches(group, lengths, batch_size):
                chosen = [rows[i] for i in batch]
                self._run_batch(
                    chosen, temperature=temperature, top_p=top_p, apart=apart, exact=exact
                )

    @torch.inference_mode()
    def _run_batch(
        self,
        rows: list[Row],
        *,
        temperature: float,
        top_p: float,
        apart: bool,
        exact: bool,
    ) -> None:
        prompts = [row.prompt for row in rows]
        if apart:
            caches, masks, choices = zip(*(self._read([p]) for p in prompts), strict=True)
            cache, mask, logits = joined(caches), torch.cat(masks), torch.cat(choices)
        else:
            cache, mask, logits = self._read(prompts, None if exact else self._cache_key())
        plan = self._plan()
        while True:
            tokens = self._choose(rows, logits, temperature, top_p, exact=exact)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if not row.finished:
                    self._accept(row, token)
            active = [i for i, row in enumerate(rows) if not row.finished]
            if not active:
                return
            # A smaller batch is cheaper, but making one copies the cache.
            if 2 * len(active) <= len(rows):
                keep = torch.tensor(active, device=mask.device)
                # The one way to select rows that layers with a recurrent state have, too.
                cache.reorder_cache(keep)  # type: ignore[arg-type]
                mask, tokens = mask[keep], tokens[keep]
                rows = [rows[i] for i in active]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = mask.sum(1, keepdim=True).sub(1)
            if plan is None:
                logits = self._forward(tokens[:, None], mask, cache=cache, positions=positions)
                logits = logits[:, -1]
            else:
                bias = padding_bias(mask, self.loaded.dtype)
                logits = plan.step(tokens, positions[:, 0], cache, bias)

    def _read(self, prompts: list[list[int]], key: Hashable = None) -> tuple[Cache, Tensor, Tensor]:
        """A cache of prompts, the mask of its tokens, and the logits of the next ones."""
        rows = list(dict.fromkeys(map(tuple, prompts)))
        if key is not None and len(rows) < len(prompts):
            # Samples of one answer: what stands before it is read once.
            cache, mask, logits = self._read([list(row) for row in rows], key)
            places = torch.tensor([rows.index(tuple(p)) for p in prompts], device=mask.device)
            cache.reorder_cache(places)  # type: ignore[arg-type]
            return cache, mask[places], logits[places]
        cache, shared = self._forward.begun(prompts, key)
        ids, own = self._forward.padded([prompt[shared:] for prompt in prompts], left=True)
        mask = torch.cat([own.new_ones(len(prompts), shared), own], dim=1)
        positions = mask.cumsum(1)[:, shared:].sub(1).clamp_min(0)
        return cache, mask, self._forward(ids, mask, cache=cache, positions=positions)[:, -1]

    def _tokens(self, row: Row, *, temperature: float, top_p: float) -> Iterator[int]:
        """Tokens of one answer, one at a time, on the cache of the last conversation."""
        if row.finished:
            return
        key = self._cache_key()
        croppable = self.loaded.profile.cache_croppable
        entry = self.cache.take(key, row.prompt, croppable=croppable)
        if entry is None:
            entry = Remembered(key, [], new_cache(self.loaded.model, self.loaded.profile))
        try:
            plan = self._plan()
            pending = row.prompt[len(entry.ids) :]
            while True:
                logits = self._extend(entry, pending, plan)
                with torch.inference_mode():
                    token = int(self._choose([row], logits, temperature, top_p))
                if not self._accept(row, token):
                    return
                yield token
                if row.finished:
                    return
                pending = [token]
        finally:
            # Reached on an error and on a reader who went away, too: put checks what it is given.
            self.cache.put(entry)

    @torch.inference_mode()
    def _extend(self, entry: Remembered, pending: list[int], plan: Plan | None) -> Tensor:
        start = len(entry.ids)
        if plan is not None and start and len(pending) == 1:
            token = torch.tensor(pending, device=self.loaded.device)
            logits = plan.step(token, torch.tensor([start]), entry.cache)
            entry.ids.extend(pending)
            return logits
        ids, _ = self._forward.padded([pending], left=False)
        mask = ids.new_ones(1, start + len(pending))
        positions = torch.arange(start, start + len(pending), device=ids.device)[None]
        logits = self._forward(ids, mask, cache=entry.cache, positions=positions)
        entry.ids.extend(pending)
        return logits[:, -1]

    def _accept(self, row: Row, token: int) -> bool:
        """Take a token into an answer; False for one that ends it and is no part of it."""
        if token in self.loaded.stop_ids:
            row.finished = True
            return False
        row.new.append(token)
        row.finished = len(row.new) >= row.room
        if row.stop and not row.finished:
            # A stop text of n characters spans at most 4n tokens, one for each of its bytes.
            reach = 4 * max(map(len, row.stop)) + 8
            tail = decode(self.loaded.tokenizer, row.new[-reach:])
            row.finished = any(text in tail for text in row.stop)
        if row.lists and not row.finished and "\n" in decode(self.loaded.tokenizer, [token]):
            row.finished = repeats(decode(self.loaded.tokenizer, row.new))
        return True

    def _choose(
        self,
        rows: list[Row],
        logits: Tensor,
        temperature: float,
        top_p: float,
        *,
        exact: bool = True,
    ) -> Tensor:
        """The next token of each row; where there are digits enough, that of the definition."""
        uniforms: Tensor | None = None
        if temperature > 0:
            numbers = [
                float(row.uniforms[min(len(row.new), row.room - 1)])
                for row in rows
                if row.uniforms is not None
            ]
            uniforms = torch.tensor(numbers, dtype=torch.float64)
        how: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "uniforms": uniforms}
        if not self._fine or not exact:
            return choose(logits, **how)
        deviation = self._uncertain() * logits.abs().amax(dim=-1).float()
        tokens, certain = choose_settled(logits, deviation, **how)
        if bool(certain.all()):
            return tokens
        for index in (~certain).nonzero()[:, 0].tolist():
            if not rows[index].finished:
                own = None if uniforms is None else uniforms[index : index + 1]
                tokens[index] = choose(
                    self._definition(rows[index]),
                    temperature=temperature,
                    top_p=top_p,
                    uniforms=own,
                )[0]
        return tokens

    def _uncertain(self) -> float:
        """By how much a logit may differ from its definition, as a share of the largest."""
        if self._agreement is None:
            self._plan()
        assert self._agreement is not None
        return SAFETY * self._agreement.deviation

    def _definition(self, row: Row) -> Tensor:
        """The logits ``(1, vocabulary)`` of a row's next token, whose rounding is the one meant."""
        ids, mask = self._forward.padded([[*row.prompt, *row.new]], left=False)
        return self._forward(ids, mask)[:, -1]

    def _plan(self) -> Plan | None:
        """How to step the model with the weights that are in it now; None: the ordinary way."""
        plan, _ = read(self.loaded)
        agreed = self._agreed(plan)
        if agreed.fast and not agreed.compiled:
            plan, _ = read(self.loaded, compiled=False)
        return plan if agreed.fast else None

    def _agreed(self, plan: Plan | None) -> Agreement:
        signature = plan.signature if plan is not None else None
        if self._agreement is None or (plan and self._agreement.signature != signature):
            self._agreement = measure(self.loaded)
        return self._agreement

    def _text(self, row: Row) -> str:
        return decode_after(self.loaded.tokenizer, row.prompt, row.new)

    def _cache_key(self) -> Hashable:
        return (self._state, self.loaded.revision)
