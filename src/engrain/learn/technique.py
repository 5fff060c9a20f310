"""What a technique is: five categories, one small class each, keyword-free hooks in one order.

The learner calls, for every lesson::

    regularization.prepare, replay.prepare, representation.prepare    # the model as it was
    architecture.attach
    optimization.prepare, rule.prepare
    for step: replay.draw -> representation.loss + regularization.penalty -> optimization.step
    architecture.adapter, architecture.detach

Inside a step an optimization asks its rules (:class:`Rule`): ``begin``, ``moves`` and ``batch``
before the forward, ``gradient``, ``rate`` and ``moved`` around each parameter's change, ``end``
after all of them. Then ``architecture.stepped`` may rearrange what it trains.

A technique's hyper-parameters are a frozen dataclass ``Config`` whose fields carry
``metadata={"help": ...}``; build fields with :func:`option`. State that a resumed run needs goes
through ``state_dict``; it holds tensors only, so that it can be stored without pickle.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from engrain.data.examples import Batch, Example, encode
from engrain.data.lessons import Lesson, TrainingText
from engrain.errors import EngrainWarning

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engrain.model.adapter import Adapter
    from engrain.model.context import Context
    from engrain.model.loading import LoadedModel

ContextSource = Callable[[Sequence[int]], "Context"]
"""Gives the keys and values of a token sequence; :meth:`engrain.model.engine.Engine.context`."""

CATEGORIES = ("architecture", "optimization", "regularization", "replay", "representation")


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A hyper-parameter: default, one line of help, closed range, or the texts it may be."""
    bounds = {"low": low, "high": high, "choices": tuple(choices)}
    return field(default=default, metadata={"help": help, **bounds})


def check_ranges(config: Any) -> None:
    """Refuse values of another kind than the default's, or outside the ranges of :func:`option`.

    Raises:
        ValueError: a value is of the wrong kind or out of range.
    """
    for name, spec in type(config).__dataclass_fields__.items():
        value, low, high = (
            getattr(config, name),
            spec.metadata.get("low"),
            spec.metadata.get("high"),
        )
        check_kind(name, value, spec.default)
        if isinstance(value, (int, float)) and (
            (low is not None and value < low) or (high is not None and value > high)
        ):
            raise ValueError(f"{name} is {value}, outside [{low}, {high}]")
        choices = spec.metadata.get("choices", ())
        if choices and value not in choices:
            raise ValueError(f"{name} is {value!r}, not one of {', '.join(choices)}")


def check_kind(name: str, value: Any, default: Any) -> None:
    """Refuse a value that is not of its default's kind; a whole number is a number, too.

    Raises:
        ValueError: a value of another kind, or a number that is not finite.
    """
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    kind = type(default)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if kind in kinds and not (fits and (kind is not float or math.isfinite(value))):
        raise ValueError(f"{name} is {value!r}, not {kinds[kind]}")


def warn_of_rank(name: str, rank: int, shapes: Iterable[Sequence[int]]) -> None:
    """Warn where a technique's rank is above the smaller side of a matrix, which is taken then."""
    sides = [min(shape) for shape in shapes if len(shape) == 2]
    below = [side for side in sides if side < rank]
    if below:
        warnings.warn(
            f"{name}: rank {rank} is above the smaller side of {len(below)} of {len(sides)} "
            f"matrices, the least {min(below)}; there the side is taken, and nothing is saved.",
            EngrainWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class Setting:
    """What techniques see of a run: the model before the lesson, the lesson, what came earlier.

    ``earlier`` are the active lessons in the order in which they were accepted; ``anchors`` are
    general texts whose predictions should not move; ``contexts`` gives the keys and values of token
    sequences under the weights before the lesson, from serving's cache where it holds them.
    """

    loaded: LoadedModel
    lesson: Lesson
    earlier: Sequence[Lesson] = ()
    anchors: Sequence[TrainingText] = ()
    seed: int = 0
    steps: int = 1
    batch_size: int = 8
    contexts: ContextSource | None = None

    def encode(self, text: TrainingText, lesson: str = "") -> Example:
        """A training text as an example of this model's tokens."""
        return encode(
            self.loaded.tokenizer,
            text,
            lesson=lesson or self.lesson.id,
            max_length=self.loaded.max_length,
        )

    def rng(self, *names: str | int) -> random.Random:
        """Random numbers that depend on the seed and on names only, never on call order."""
        return random.Random(":".join(map(str, (self.seed, *names))))


@dataclass(frozen=True)
class StepCost:
    """What a part of a recipe adds to the memory and to the seconds of a run.

    ``kept_bytes`` are held from the preparation to the end; ``tokens`` run through the model with
    gradients in the dearest step, and ``targets`` of them have their logits held. Before the first
    step ``read`` tokens run through it, ``predicted`` of them with logits; each step takes one of
    ``groups`` of these.
    """

    kept_bytes: int = 0
    tokens: int = 0
    targets: int = 0
    read: int = 0
    predicted: int = 0
    groups: int = 1


class Technique:
    """The common part of all techniques: a name, hyper-parameters, tensors-only state."""

    category: ClassVar[str] = ""
    name: ClassVar[str] = ""
    Config: ClassVar[type[Any]]

    def __init__(self, config: Any) -> None:
        check_ranges(config)
        self.config = config

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs beside its inputs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the state that :meth:`state_dict` gave."""

    def memory_report(self) -> dict[str, int]:
        """Bytes of the tensors that it keeps at the moment, by what they are."""
        held = sum(tensor.nbytes for tensor in self.state_dict().values())
        return {"state": held} if held else {}


class Architecture(Technique):
    """Where the update lives.

    ``goes_on``: it has :meth:`go_on`, so that a second round can follow a first.
    """

    category = "architecture"
    goes_on: ClassVar[bool] = False

    def attach(self, setting: Setting) -> None:
        """Make the model's trainable part; its function must not change."""
        raise NotImplementedError

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        raise NotImplementedError

    def go_on(self, adapter: Adapter) -> None:
        """After :meth:`attach`: begin at what an adapter of its own holds, not at nothing."""
        raise NotImplementedError

    def stepped(self, step: int, optimization: Optimization) -> None:
        """After a step: rearrange what is trained, and what the optimization holds of it."""

    def adapter(self) -> Adapter:
        """The learned change as a detached, removable adapter."""
        raise NotImplementedError

    def detach(self) -> None:
        """Give the model back exactly as it was before :meth:`attach`."""
        raise NotImplementedError

    @classmethod
    def fold(cls, adapter: Adapter, weights: dict[str, Tensor]) -> None:
        """Add the adapter to fp32 weights in place, deterministically."""
        raise NotImplementedError

    def storage_bytes(self, setting: Setting) -> int:
        """Bytes of the adapter, from the formula; equals ``adapter().nbytes``."""
        raise NotImplementedError

    def working_bytes(self, setting: Setting) -> int:
        """Bytes beside the model's weights while it trains: new parts, or a copy of old ones."""
        return self.storage_bytes(setting)

    def would_train(self, setting: Setting) -> dict[str, nn.Parameter]:
        """What :meth:`attach` would train, without memory: parameters on the ``meta`` device.

        One flat parameter of the adapter's size, unless the architecture knows better.
        """
        return {"adapter": meta_parameter(self.storage_bytes(setting) // 4)}

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable parameters."""
        return {name: parameter.detach() for name, parameter in self.parameters().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy trainable parameters in place."""
        import torch

        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(state[name])


class Optimization(Technique):
    """How a gradient becomes a step."""

    category = "optimization"

    def prepare(self, parameters: Mapping[str, nn.Parameter], setting: Setting) -> None:
        """Take the parameters that will be trained."""
        raise NotImplementedError

    def begin(self, step: int) -> None:
        """Before the forward of a step."""

    def batch(self, step: int) -> Sequence[Example]:
        """The examples that stand in for the step's batch; empty where it is the ordinary one."""
        return ()

    def step(self, step: int) -> float:
        """Turn the gradients into a change of parameters and clear them; gives the step size."""
        raise NotImplementedError

    def forget(self, name: str, vectors: Sequence[int] | None = None) -> None:
        """Begin anew with a parameter, or with some of its vectors; asked by rules."""
        raise NotImplementedError

    def turn(self, name: str, basis: Tensor, dim: int) -> None:
        """Carry what is kept of a parameter over to new vectors; asked by rules."""
        raise NotImplementedError

    def state_bytes(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """Bytes that the state of these parameters takes; two fp32 moments unless it says so."""
        return sum(8 * parameter.numel() for parameter in parameters.values())


class Rule(Technique):
    """What an optimization is held to: which parameters move, along what, how far.

    A recipe takes any number of rules beside its one optimization, in order. Gradients and weights
    are fp32 ``(as the parameter)``; a hook that a rule does not write does nothing. ``tried_on``
    names an architecture whose parameters it is for: the conformance suite takes that one.
    """

    category = "optimization"
    tried_on: ClassVar[str] = "full"

    def prepare(
        self,
        parameters: Mapping[str, nn.Parameter],
        setting: Setting,
        optimization: Optimization,
    ) -> None:
        """Take the parameters that are trained, and the optimization that moves them."""
        self.setting, self.optimization = setting, optimization

    def begin(self, step: int) -> None:
        """Before the forward of a step: choose blocks, refresh what is kept of the weights."""

    def moves(self, name: str, step: int) -> bool:
        """Whether a parameter moves in this step; one that does not gets no gradient at all."""
        return True

    def batch(self, step: int) -> Sequence[Example]:
        """Examples that stand in for this step's batch, as a pure function of the step."""
        return ()

    def rate(self, rate: float, step: int) -> float:
        """The learning rate of a step, given the one that the schedule has."""
        return rate

    def gradient(self, name: str, weight: Tensor, gradient: Tensor, step: int) -> Tensor:
        """The gradient that the optimization is given; may be changed in place."""
        return gradient

    def moved(self, name: str, before: Tensor, weight: Tensor, step: int) -> None:
        """Correct a weight in place after its step; ``before`` is the weight before it."""

    def end(self, step: int) -> None:
        """After all parameters of a step have moved."""

    def coupling(self) -> str:
        """Why one parameter's step needs those of others; "" where it does not."""
        return ""

    def at_once(
        self, parameters: Mapping[str, nn.Parameter], setting: Setting
    ) -> Mapping[str, nn.Parameter]:
        """Those that hold gradients and optimizer state at one time, at most; before `prepare`."""
        return parameters

    def state_bytes(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """Bytes that the rule keeps for these parameters."""
        return 0


class Regularization(Technique):
    """What is added to the loss.

    ``holds_earlier``: it holds the model to what earlier lessons taught, so none may be missing.
    """

    category = "regularization"
    holds_earlier: ClassVar[bool] = False

    def prepare(self, setting: Setting) -> None:
        """Look at the model before the lesson."""
        raise NotImplementedError

    def penalty(self, step: int) -> Tensor:
        """A scalar that is added to the loss of this step."""
        raise NotImplementedError

    def cost(self, setting: Setting) -> StepCost:
        """What it adds to the memory of a run, told before :meth:`prepare`."""
        return StepCost()


class Replay(Technique):
    """What old data is mixed in."""

    category = "replay"

    def prepare(self, setting: Setting) -> None:
        """Choose what may be replayed, as a pure function of the setting."""
        raise NotImplementedError

    def draw(self, step: int) -> Sequence[Example]:
        """The examples that join this step's batch, as a pure function of the step."""
        raise NotImplementedError


class Representation(Technique):
    """What of the input is held fixed.

    ``hardest`` holds the greatest target loss of each example of the last batch, ``(batch,)``.
    """

    category = "representation"
    hardest: Tensor

    def prepare(self, setting: Setting) -> None:
        """Take the model."""
        self.setting = setting

    def loss(self, batch: Batch) -> Tensor:
        """The mean negative log-likelihood of the batch's targets, weighted by example."""
        raise NotImplementedError

    def computed(self, example: Example) -> float:
        """Tokens that an example costs in a step; one that is only read costs a third."""
        return float(len(example))

    def graph_tokens(self, tokens: int, targets: int, rows: int) -> int:
        """Tokens of a batch whose activations are kept for backward; the others are a cache."""
        return tokens

    def logits_bytes(self, targets: int, vocabulary: int) -> int:
        """Bytes of the logits of a step: those that are kept, and some chunks of them."""
        from engrain.learn.heads import CHUNK, KEPT

        whole = targets * vocabulary
        return 4 * ((whole if whole <= KEPT else 0) + 3 * targets * min(CHUNK, vocabulary))


def meta_parameter(*shape: int) -> nn.Parameter:
    """A parameter that has a shape and takes no memory."""
    import torch

    return torch.nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
