"""How fast a model is here, from a few passes that are timed once; all else is a count.

What a model does is counted in passes: tokens that go through its layers, places whose next token
is predicted, and the steps of answers, token by token. The layers multiply each token with
``body`` numbers, a prediction with the ``head`` numbers of the output layer. A step of an answer
reads all weights once, whatever the number of rows, and the cache of each row. So what was timed on
one model prices another one from its shape, and neither its length nor that of a panel costs
anything to tell.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engrain.data.lessons import canonical_digest
from engrain.data.messages import Message
from engrain.data.templates import render
from engrain.exam.kept import keep_measured, read_measured
from engrain.exam.panel import LOSS_LENGTH, PANEL_TOKENS
from engrain.exam.probes import BATCH_SIZE
from engrain.learn.footprint import cache_bytes
from engrain.model.cache import common_prefix
from engrain.model.digest import tensor_digest
from engrain.model.rows import MAX_BATCH_TOKENS
from engrain.model.threads import machine_digest

if TYPE_CHECKING:
    from engrain.exam.panel import Panel
    from engrain.model.loading import LoadedModel, Outline

WORDS = 80
"""Words of the prompt whose reading is timed."""
ROWS = 12
"""Answers that are stepped together while steps are timed; one alone is timed as well."""
STEPS = 6
"""Steps of an answer that are timed."""
PIECE = 1 << 23
"""Numbers of the weights whose copying and hashing are timed."""
REPEATED = 0.3
"""Seconds below which a pass is timed again."""
LITTLE = 1e-15
"""Seconds below which nothing is told apart."""
ALIKE = 3
"""Questions of one length in an exam: in types of few digits only these are stepped together
(assumed; a panel's own are counted)."""
ANSWERED = 0.6
"""Tokens of a mean answer, as a share of those of the longest of its batch (assumed)."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a model that decide what a pass takes.

    ``weights`` and ``cache`` are bytes, of all weights and of the keys and values of a token;
    ``fine`` says that the type has digits enough for questions of any length to share a batch.
    """

    body: int
    head: int
    weights: int
    cache: int
    fine: bool

    @classmethod
    def of(cls, model: LoadedModel | Outline) -> Shape:
        """The shape of a model; of one that is not loaded, from its outline."""
        profile = model.profile
        head = profile.vocab_size * profile.hidden_size
        body = profile.parameters - (head if profile.tied else 2 * head)
        weights = profile.parameters * model.dtype.itemsize
        return cls(max(1, body), head, weights, cache_bytes(model), model.dtype.itemsize >= 4)


@dataclass(frozen=True)
class Passes:
    """What a model is asked to do.

    ``read`` tokens go through the layers, ``predicted`` of their places through the output layer.
    ``steps`` are those of batches of answers, ``rows`` the rows of all these steps, ``seen`` the
    tokens of the caches of all these rows.
    """

    read: float = 0.0
    predicted: float = 0.0
    steps: float = 0.0
    rows: float = 0.0
    seen: float = 0.0

    def __add__(self, other: Passes) -> Passes:
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return Passes(*(one + more for one, more in pairs))

    def __mul__(self, times: float) -> Passes:
        return Passes(*(times * count for count in asdict(self).values()))


def asked(
    count: float,
    *,
    own: float,
    longest: float,
    view: float = 0.0,
    size: int = BATCH_SIZE,
    written: float = 0.0,
) -> Passes:
    """Answers to ``count`` requests of ``own`` tokens after a common view.

    The view is read once. A batch of ``size`` is stepped until its ``longest`` answer is done.
    ``written`` tokens has a mean answer. A batch is halved when half of its rows are done, so a row
    is stepped some steps beyond its end.
    """
    if count <= 0:
        return Passes()
    per = max(1.0, min(size, MAX_BATCH_TOKENS // (view + own + longest)))
    batches = -(-count // per)
    mean = written or ANSWERED * longest
    rows = count * (mean + longest) / 2
    return Passes(
        view + count * own, count, batches * longest, rows, rows * (view + own + mean / 2)
    )


def scored(count: float, *, own: float, targets: float, view: float = 0.0) -> Passes:
    """Likelihoods of ``count`` texts of ``own`` tokens after a common view, ``targets`` of each."""
    return Passes(view + count * own, count * targets) if count > 0 else Passes()


@dataclass(frozen=True)
class Pace:
    """Seconds on this machine.

    Of a token for each ``number`` of the layers, of a step for each ``byte`` that it reads, of a
    ``row`` of a step for each number; of copying and hashing a byte of weights.
    """

    number: float
    byte: float
    row: float
    copied: float
    hashed: float

    def seconds(self, passes: Passes, shape: Shape) -> float:
        """Seconds of some passes of a model of a shape."""
        return (
            self.number * (passes.read * shape.body + passes.predicted * shape.head)
            + self.byte * (passes.steps * shape.weights + passes.seen * shape.cache)
            + self.row * passes.rows * (shape.body + shape.head)
        )

    def folding(self, parameters: int) -> float:
        """Seconds of folding weights: they are copied twice in fp32, and hashed."""
        return 4 * parameters * (2 * self.copied + self.hashed)

    def loading(self, nbytes: int) -> float:
        """Seconds of loading a model: its file is hashed, and its weights are copied twice."""
        return nbytes * (2 * self.copied + self.hashed)


def measure(loaded: LoadedModel) -> Pace:
    """Time the passes of a model as it is: some hundred tokens in all."""
    from engrain.model.engine import Engine

    endless = copy.copy(loaded)
    # No answer ends by itself, so the steps are known.
    endless.stop_ids = ()
    engine, shape = Engine(endless), Shape.of(loaded)
    told = " ".join(f"boat {i}" for i in range(WORDS // 2))
    long = [Message("user", told)]
    short = [[Message("user", f"Which boat is number {i % 10}?")] for i in range(ROWS)]
    # What is set up once is no part of a pass.
    engine.generate(short[:1], max_new_tokens=2, exact=False)
    tokens = min(len(engine.encode_chat(long)), loaded.max_length - 1)
    read = timed(partial(engine.generate, [long], max_new_tokens=1, exact=False))
    number = max(LITTLE, read / (tokens * shape.body + shape.head))

    def stepped(rows: int) -> float:
        """Seconds of a step."""
        prompts = short[:rows]
        took = timed(partial(engine.generate, prompts, max_new_tokens=STEPS + 1, exact=False))
        encoded = [engine.encode_chat(prompt) for prompt in prompts]
        begun = asked(rows, own=_own(encoded), view=_common(encoded), longest=1)
        before = number * (begun.read * shape.body + begun.predicted * shape.head)
        # The rest is never taken for nothing, however badly reading was timed.
        return max(took - before, took / 4) / STEPS

    one, many = stepped(1), stepped(ROWS)
    row = max(0.0, many - one) / (ROWS - 1) / (shape.body + shape.head)
    single = max(one / 4, one - row * (shape.body + shape.head))
    copied, hashed = _copying(loaded)
    return Pace(number, single / shape.weights, row, copied, hashed)


def kept_pace(folder: Path, loaded: LoadedModel) -> Pace:
    """The pace of a model on this machine: timed at the first asking, then read from a folder."""
    key = canonical_digest([machine_digest(), loaded.base_digest, str(loaded.dtype)])
    path = folder / f"pace-{key[:32]}.json"
    try:
        return Pace(**read_measured(path))
    except TypeError:
        pace = measure(loaded)
        keep_measured(path, asdict(pace))
        return pace


def panel_passes(panel: Panel, loaded: LoadedModel) -> Passes:
    """What running a panel takes, from the tokens of all that is in it."""
    tokenizer, shape = loaded.tokenizer, Shape.of(loaded)

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def said(messages: Sequence[Message], ask: bool) -> str:
        return render(tokenizer, messages, add_generation_prompt=ask)

    found = Passes()
    for item in panel.texts:
        text = said(item.messages, False) if item.messages else item.text
        count = min(tokens(text), LOSS_LENGTH, loaded.max_length)
        found += scored(1, own=count, targets=count)
    for choice in panel.choices:
        for prompt, rest in choice.options:
            own = tokens(rest)
            found += scored(1, own=tokens(prompt) + own, targets=own)
    asking: dict[str, list[int]] = {}
    for question in panel.questions:
        asking.setdefault(question.part, []).append(tokens(said(question.probe.messages, True)))
    for lengths in asking.values():
        groups = [lengths] if shape.fine else [[n] * k for n, k in Counter(lengths).items()]
        for group in groups:
            mean = sum(group) / len(group)
            found += asked(len(group), own=mean, longest=PANEL_TOKENS)
    return found


def timed(work: Callable[[], Any]) -> float:
    """Seconds of some work; the least of three where it is quick, since others compute, too."""
    found: list[float] = []
    while len(found) < 3 and sum(found) < REPEATED:
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def _copying(loaded: LoadedModel) -> tuple[float, float]:
    """Seconds of a byte in fp32: copied, and hashed."""
    piece: dict[str, Any] = {}
    numbers = 0
    for name, tensor in loaded.stored().items():
        if not tensor.numel() or not tensor.dim():
            continue
        rows = max(1, (PIECE - numbers) * len(tensor) // tensor.numel())
        piece[name] = tensor[:rows]
        numbers += piece[name].numel()
        if numbers >= PIECE:
            break
    whole: dict[str, Any] = {}

    def copy_all() -> None:
        whole.update({name: tensor.detach().float().clone() for name, tensor in piece.items()})

    # The first time the pages come from the disk.
    copy_all()
    copied = timed(copy_all)
    hashed = timed(partial(tensor_digest, whole))
    return copied / (4 * numbers), hashed / (4 * numbers)


def _common(encoded: Sequence[Sequence[int]]) -> int:
    """Leading tokens that are read once for all rows."""
    from engrain.model.forward import SHARED_PREFIX

    shared = common_prefix([list(ids) for ids in encoded]) if len(encoded) > 1 else 0
    return shared if shared >= SHARED_PREFIX else 0


def _own(encoded: Sequence[Sequence[int]]) -> float:
    """Tokens of a mean row beside those."""
    return sum(map(len, encoded)) / len(encoded) - _common(encoded)
