"""The training text: natural dialogues and books from files, and generated dialogues.

A batch is a pure function of (seed, step), so that a resumed run sees what an uninterrupted one
would. Every batch has exactly the same number of tokens: whole dialogues first, and a piece of a
book (or, without books, a cut dialogue) in what is left, so there is no padding.
"""

from __future__ import annotations

import bisect
import gzip
import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Message = dict[str, Any]
Generate = Callable[[random.Random, int], list[Message]]


@dataclass(frozen=True)
class Doc:
    """One document: token ids [n] and, for each token, whether predicting it is to be learned.

    `branches` are where its branches begin, none in most documents.
    """

    ids: np.ndarray  # int32 [n]
    loss: np.ndarray  # bool [n]
    branches: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def parts(self) -> tuple[int, ...]:
        """The lengths of its trunk and of its branches."""
        return tuple(b - a for a, b in pairwise((0, *self.branches, len(self))))

    def cut(self, start: int, stop: int) -> Doc:
        """Tokens `start` to `stop`; nothing predicts the first token.

        Of a document with branches only the first tokens can be had.
        """
        if start and self.branches:
            raise ValueError("a branch can't be told without its trunk")
        loss = self.loss[start:stop].copy()
        loss[:1] = False
        return Doc(self.ids[start:stop], loss, tuple(b for b in self.branches if b < stop))


@dataclass(frozen=True)
class Batch:
    """Documents behind one another: ids [T], their parts, and the positions with loss [N]."""

    ids: np.ndarray
    docs: list[tuple[int, ...]]
    where: np.ndarray
    shares: dict[str, int] = field(default_factory=dict)  # tokens by source


class Encoder:
    """ChatML to tokens, exactly as `tokenizer.apply_chat_template` writes it."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a `tokenizers.Tokenizer` with the ChatML marks as special tokens."""
        self.raw = tokenizer
        self.end = tokenizer.token_to_id("<|im_end|>")
        self.start = tokenizer.token_to_id("<|im_start|>")

    def dialogues(self, batch: Sequence[Sequence[Message]]) -> list[Doc]:
        """Dialogues whose messages carry `loss` -> documents; the content and its end count.

        A branch begins at each message with `branch`: it goes on from before the first of them.
        """
        texts, spans, forks = [], [], []
        for messages in batch:
            at, parts, span, fork = 0, [], [], []
            for m in messages:
                if m.get("branch"):
                    fork.append(at)
                head = f"<|im_start|>{m['role']}\n"
                body = f"{m['content']}<|im_end|>"
                if m["loss"]:
                    span.append((at + len(head), at + len(head) + len(body)))
                parts.append(head + body + "\n")
                at += len(parts[-1])
            texts.append("".join(parts))
            spans.append(span)
            forks.append(fork)
        docs = []
        for enc, span, fork in zip(self._encode(texts), spans, forks, strict=True):
            starts = np.array([o[0] for o in enc.offsets], dtype=np.int64)
            loss = np.zeros(len(starts), dtype=bool)
            for a, b in span:
                loss[np.searchsorted(starts, a) : np.searchsorted(starts, b)] = True
            loss[:1] = False
            branches = tuple(int(at) for at in np.searchsorted(starts, fork))
            docs.append(Doc(np.array(enc.ids, dtype=np.int32), loss, branches))
        return docs

    def text(self, text: str) -> np.ndarray:
        """Plain text -> ids [n]."""
        return np.array(self._encode([text])[0].ids, dtype=np.int32)

    def _encode(self, texts: list[str]) -> list[Any]:
        return list(self.raw.encode_batch(texts, add_special_tokens=False))

    def pieces(self, doc: Doc, limit: int) -> list[Doc]:
        """Cut a dialogue into pieces of at most `limit` tokens, at message starts if possible."""
        starts = np.flatnonzero(doc.ids == self.start)
        out, at = [], 0
        while len(doc) - at > limit:
            fits = starts[(starts > at) & (starts <= at + limit)]
            stop = int(fits[-1]) if len(fits) else at + limit
            out.append(doc.cut(at, stop))
            at = stop
        out.append(doc.cut(at, len(doc)))
        return out


def mark_loss(messages: Sequence[Message]) -> list[Message]:
    """Natural dialogues: loss on what the assistant says and on what the user asks."""
    return [
        {**m, "loss": m["role"] == "assistant" or m["content"].rstrip().endswith("?")}
        for m in messages
    ]


def held_out(row: str, share: float = 0.01) -> bool:
    """Whether a row (its text) is kept out for validation: by hash, so it never changes."""
    return int.from_bytes(hashlib.sha256(row.encode()).digest()[:8], "big") < share * 2**64


class Stream:
    """Documents of one source in a new random order each time through it."""

    def __init__(self, name: str, docs: Sequence[Doc], seed: int) -> None:
        self.name, self.docs, self.seed = name, docs, seed
        self.total = sum(map(len, docs))
        self._epoch = -1
        self._order: list[int] = []
        self._starts: list[int] = []

    def between(self, start: int, stop: int) -> list[Doc]:
        """Documents that begin at token positions [start, stop) of the endless stream."""
        out = []
        while start < stop:
            epoch, at = divmod(start, self.total)
            upto = min(stop, (epoch + 1) * self.total)
            self._shuffle(epoch)
            low = bisect.bisect_left(self._starts, at)
            high = bisect.bisect_left(self._starts, upto - epoch * self.total)
            out += [self.docs[i] for i in self._order[low:high]]
            start = upto
        return out

    def _shuffle(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        order = list(range(len(self.docs)))
        random.Random(f"{self.seed}/{self.name}/{epoch}").shuffle(order)
        sizes = [0] + [len(self.docs[i]) for i in order]
        self._starts = np.cumsum(sizes)[:-1].tolist()
        self._order, self._epoch = order, epoch


@dataclass(frozen=True)
class Mix:
    """What batches are made of: shares of tokens, and the sizes of documents."""

    generated: float = 0.80
    dialogue: float = 0.13
    text: float = 0.07
    seq: int = 512  # longest document, in tokens
    long_fraction: float = 0.1  # share of generated dialogues that may be twice as long
    tokens: int = 4096  # of a batch


class Corpus:
    """All sources together."""

    def __init__(
        self, data: Path | None, encoder: Encoder, mix: Mix, generate: Generate | None, seed: int
    ) -> None:
        self.encoder, self.mix, self.generate, self.seed = encoder, mix, generate, seed
        self.validation: list[Doc] = []
        self.streams: list[Stream] = []
        self.books: list[np.ndarray] = []
        for path in sorted(data.glob("*.jsonl*")) if data else []:
            self._load(path)
        roots = [math.sqrt(s.total) for s in self.streams]
        self.weights = [mix.dialogue * r / sum(roots) for r in roots]

    def _load(self, path: Path) -> None:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as f:
            lines = f.read().splitlines()
        talks: list[list[Message]] = []
        kept: list[list[Message]] = []
        for line in lines:
            row = json.loads(line)
            if "text" in row:
                self.books.append(self.encoder.text(row["text"]))
            else:
                (kept if held_out(line) else talks).append(mark_loss(row["messages"]))
        for into, rows in ((self.validation, kept), ([], talks)):
            for i in range(0, len(rows), 256):
                for doc in self.encoder.dialogues(rows[i : i + 256]):
                    into += [p for p in self.encoder.pieces(doc, self.mix.seq) if p.loss.any()]
            if into is not self.validation and into:
                self.streams.append(Stream(path.name.split(".")[0], into, self.seed))

    def batch(self, step: int) -> Batch:
        """Batch number `step`."""
        mix, rng = self.mix, random.Random(f"{self.seed}/batch/{step}")
        docs: list[tuple[str, Doc]] = []
        for stream, w in zip(self.streams, self.weights, strict=True):
            per = w * mix.tokens
            found = stream.between(int(step * per), int((step + 1) * per))
            docs += [(stream.name, d) for d in found]
        used = sum(len(d) for _, d in docs)
        goal = mix.tokens - (int(2 * rng.random() * mix.text * mix.tokens) if self.books else 0)
        while used < goal and self.generate is not None:
            doc = self._generated(rng)
            over = used + len(doc) - goal
            if self.books and over > 0 and (over > mix.tokens - goal or rng.random() < 0.5):
                break
            docs.append(("generated", doc))
            used += len(doc)
        rng.shuffle(docs)
        return self._join(docs, rng)

    def _generated(self, rng: random.Random) -> Doc:
        """One generated dialogue, cut behind its last whole message if it is too long."""
        assert self.generate is not None
        limit = self.mix.seq * (2 if rng.random() < self.mix.long_fraction else 1)
        hint = int(limit * rng.uniform(0.3, 1.0))
        doc = self.encoder.dialogues([self.generate(rng, hint)])[0]
        # Branches stand side by side: many of them make no document longer for who reads it.
        return doc.cut(0, 2 * limit) if doc.branches else self.encoder.pieces(doc, limit)[0]

    def _join(self, docs: list[tuple[str, Doc]], rng: random.Random) -> Batch:
        """Exactly `mix.tokens` tokens: cut what is too much, fill what is missing."""
        room, out = self.mix.tokens, []
        shares: dict[str, int] = {}
        while room > 0:
            if docs:
                name, doc = docs.pop()
            else:
                name, doc = self._filler(rng, room)
            doc = doc if len(doc) <= room else doc.cut(0, room)
            out.append(doc)
            shares[name] = shares.get(name, 0) + len(doc)
            room -= len(doc)
        return Batch(
            np.concatenate([d.ids for d in out]).astype(np.int64),
            [d.parts for d in out],
            np.flatnonzero(np.concatenate([d.loss for d in out])),
            shares,
        )

    def _filler(self, rng: random.Random, room: int) -> tuple[str, Doc]:
        """A piece of a book, or else of a dialogue, of at most `room` tokens."""
        if not self.books:
            if self.streams:
                stream = rng.choice(self.streams)
                return stream.name, rng.choice(stream.docs)
            return "generated", self._generated(rng)
        n = min(room, self.mix.seq)
        book = rng.choices(self.books, [len(b) for b in self.books])[0]
        at = rng.randrange(max(1, len(book) - n))
        ids = book[at : at + n]
        return "books", Doc(ids, np.arange(len(ids)) > 0)
