"""What optimizations that move one parameter at a time have in common.

Each parameter's step needs its own gradient alone, so it may be taken as soon as that gradient is
whole, inside backward: :class:`GradientRelease` does so, and only one layer's gradient is alive at
a time (Lv et al., arXiv 2306.09782). A rule that couples parameters, such as clipping by the norm
of all gradients, says so in :meth:`PerParameter.coupling`, and is refused there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from engrain.data.examples import Example
from engrain.errors import ConfigError, DivergedError
from engrain.learn.passes import Move, Product, possible
from engrain.learn.rounding import MODES, keys, round_into
from engrain.learn.technique import Optimization, Rule, Setting, option, warn_of_rank


@dataclass(frozen=True)
class UpdateConfig:
    """Hyper-parameters that all per-parameter optimizations take."""

    learning_rate: float = option(2e-3, "peak step size", low=0.0, high=100.0)
    weight_decay: float = option(0.0, "decoupled decay per step and learning rate", low=0.0)
    clip: float = option(1.0, "largest gradient norm; 0 switches it off", low=0.0)
    clip_scope: str = option(
        "all", "whose norm is clipped: of all gradients, or of each", choices=("all", "each")
    )
    warmup: float = option(0.1, "share of the steps over which the rate rises", low=0.0, high=1.0)
    final_fraction: float = option(0.05, "rate at the end as a share of the peak", low=0, high=1)
    rounding: str = option(
        "stochastic", "how results become bf16, where weights are bf16", choices=MODES
    )


class PerParameter(Optimization):
    """An optimization whose parameters move one by one; subclasses write :meth:`move`.

    A parameter's state is made when it first moves, so what never moves costs nothing, and
    :meth:`forget` gives it back. ``linear`` and ``squares`` name the tensors of a state that are
    means of gradients and of their squares, element by element: :meth:`turn` can carry them over
    into other coordinates.
    """

    linear: ClassVar[tuple[str, ...]] = ("exp_avg", "momentum")
    squares: ClassVar[tuple[str, ...]] = ("exp_avg_sq",)

    def prepare(self, parameters: Mapping[str, nn.Parameter], setting: Setting) -> None:
        """Take the parameters."""
        self._parameters = dict(parameters)
        self._steps, self._seed = setting.steps, setting.seed
        self._state: dict[str, dict[str, Tensor]] = {}
        self._lost: dict[str, Tensor] = {}
        self._rules: tuple[Rule, ...] = ()
        self._correct = False
        rank = getattr(self.config, "rank", 0)
        warn_of_rank(self.name, rank, (item.shape for item in parameters.values()))

    def follow(self, rules: Sequence[Rule], setting: Setting) -> None:
        """Take the rules that every step is held to."""
        for rule in rules:
            rule.prepare(self._parameters, setting, self)
        self._rules = tuple(rules)
        self._correct = any(type(rule).moved is not Rule.moved for rule in rules)

    def state(self, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Fresh tensors that a parameter's steps need, fp32."""
        raise NotImplementedError

    def forget(self, name: str, vectors: Sequence[int] | None = None) -> None:
        """Drop the state of a parameter, or of some of its vectors; their next step begins anew.

        The vectors are those that :func:`by_vector` marks. Where the state holds something of all
        vectors together, such as one step count or one norm, it can't be parted, and all goes.
        """
        parameter, state = self._parameters[name], self._state.get(name, {})
        dim = vectors_of(parameter)
        if vectors is None or dim is None or not all(_parted(t, parameter) for t in state.values()):
            self._state.pop(name, None)
            self._lost.pop(name, None)
            return
        index = torch.tensor(list(vectors), dtype=torch.long, device=parameter.device)
        fresh = self.state(name, parameter) if state else {}
        for key, tensor in state.items():
            tensor.index_copy_(dim, index, fresh[key].index_select(dim, index))
        if name in self._lost:
            self._lost[name].index_fill_(dim, index, 0)

    def turn(self, name: str, basis: Tensor, dim: int) -> None:
        """Carry the state over to new vectors: new vector i is the sum of basis[i, j] old vector j.

        ``basis`` ``(vectors, vectors)`` is the change of the gradient, fp32, and ``dim`` the
        dimension of the parameter that counts its vectors. Means of gradients are turned exactly,
        means of squares as if the old vectors were uncorrelated. What can't be turned is dropped.
        """
        state, shape = self._state.get(name, {}), self._parameters[name].shape
        known = all(
            tensor.shape == (shape if key in (*self.linear, *self.squares) else ())
            for key, tensor in state.items()
        )
        if not known or not set(state) <= {"step", *self.linear, *self.squares}:
            self.forget(name)
            return
        self._lost.pop(name, None)
        for key, tensor in state.items():
            if key != "step":
                change = basis.square() if key in self.squares else basis
                turned = torch.tensordot(change, tensor, dims=([1], [dim]))
                tensor.copy_(turned.movedim(0, dim))

    def move(self, name: str, weight: Tensor, gradient: Tensor, rate: float, step: int) -> None:
        """Change an fp32 weight in place by its fp32 gradient, which may be overwritten."""
        raise NotImplementedError

    def one_pass(self, name: str, rate: float) -> Move | None:
        """The same step for a kernel that makes one pass over memory; None where there is none."""
        return None

    def passed(self, name: str) -> None:
        """After a step that :meth:`one_pass` described was taken."""

    def as_multiple(self, name: str, gradient: Tensor, rate: float) -> Move | None:
        """A step that is a multiple of its fp32 gradient, for a kernel; None where it is none.

        The state moves on with it, so this is asked once for a step and in the place of
        :meth:`move`.
        """
        return None

    def rate(self, step: int) -> float:
        """The learning rate of a step: the schedule's, then what the rules make of it."""
        rate = self.scheduled(step)
        for rule in self._rules:
            rate = rule.rate(rate, step)
        return rate

    def scheduled(self, step: int) -> float:
        """The schedule's rate of a step, counted from 0: linear warm-up, then a cosine."""
        warm = max(1, round(self.config.warmup * self._steps))
        if step < warm:
            return float(self.config.learning_rate * (step + 1) / warm)
        done = (step - warm) / max(1, self._steps - warm)
        low = self.config.final_fraction
        shape = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done))
        return float(self.config.learning_rate * shape)

    def coupling(self) -> str:
        """Why one parameter's step needs the gradients of others; "" where it does not."""
        if self.config.clip > 0 and self.config.clip_scope == "all":
            return "optimization.clip needs the norm of all gradients"
        return next(filter(None, (rule.coupling() for rule in self._rules)), "")

    def begin(self, step: int) -> None:
        """Let the rules choose; what does not move in this step takes no gradient."""
        for rule in self._rules:
            rule.begin(step)
        if self._rules:
            for name, parameter in self._parameters.items():
                parameter.requires_grad_(all(rule.moves(name, step) for rule in self._rules))

    def batch(self, step: int) -> Sequence[Example]:
        """What the first rule that has something puts in the place of the step's batch."""
        return next(filter(None, (rule.batch(step) for rule in self._rules)), ())

    def step(self, step: int) -> float:
        """Clip, move every parameter that has a gradient, clear."""
        if self.config.clip > 0 and self.config.clip_scope == "all":
            waiting = [p for p in self._parameters.values() if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(waiting, self.config.clip)
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self.update(name, step)
        for rule in self._rules:
            rule.end(step)
        return self.rate(step)

    @torch.no_grad()
    def update(self, name: str, step: int) -> None:
        """Move one parameter by its gradient, and clear that.

        Raises:
            DivergedError: the gradient is not finite; the parameter and its state are as before.
        """
        parameter = self._parameters[name]
        assert parameter.grad is not None
        gradient, parameter.grad = parameter.grad, None
        factor = 1.0
        _check_finite(gradient, name, step)
        if self.config.clip > 0 and self.config.clip_scope == "each":
            norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float32))
            factor = min(1.0, self.config.clip / (norm + 1e-6))
        if name not in self._state:
            self._state[name] = self.state(name, parameter)
        weight, move = parameter.data, self.one_pass(name, self.rate(step))
        if move and not self._rules:
            chosen = keys(self._seed, name, step)
            if move.apply(weight, gradient, factor, self.config.rounding, chosen):
                self.passed(name)
                return
        small = gradient
        gradient = gradient.float() if factor == 1.0 else gradient.float() * factor
        if not self._rules and possible(weight, small, self.config.rounding):
            move = self.as_multiple(name, gradient, self.rate(step))
            if move is not None:
                del gradient
                move.apply(
                    weight, small, factor, self.config.rounding, keys(self._seed, name, step)
                )
                return
        whole = weight.float()
        for rule in self._rules:
            gradient = rule.gradient(name, whole, gradient, step)
        if gradient.stride() != whole.stride():
            # torch's fused steps walk through memory and do not look at strides.
            gradient = torch.empty_like(whole).copy_(gradient)
        before = whole.clone() if self._correct else whole
        if move and move.apply(whole, gradient, 1.0, "nearest", (0, 0)):
            self.passed(name)
        else:
            self.move(name, whole, gradient, self.rate(step), step)
        for rule in self._rules:
            rule.moved(name, before, whole, step)
        if weight.dtype != torch.float32:
            self._round(name, weight, whole, step)

    def _round(self, name: str, weight: Tensor, whole: Tensor, step: int) -> None:
        if self.config.rounding == "kahan" and name not in self._lost:
            self._lost[name] = torch.zeros_like(weight)
        lost = self._lost.get(name, weight.new_empty(0))
        round_into(weight, whole, self.config.rounding, self._seed, name, step, lost=lost)

    def product(self, name: str, step: int) -> Product | None:
        """How a matrix moves by the two factors of its gradient; None where that can't be done.

        The gradient is not formed and not rounded to the weight's type, so the last bits differ
        from those of :meth:`update`. Who takes the step calls :meth:`passed`.
        """
        if self._rules or self.config.clip > 0:
            return None
        if name not in self._state:
            self._state[name] = self.state(name, self._parameters[name])
        move, chosen = self.one_pass(name, self.rate(step)), keys(self._seed, name, step)
        return Product.of(name, self._parameters[name].data, move, self.config.rounding, chosen)

    def state_bytes(self, parameters: Mapping[str, nn.Parameter]) -> int:
        """Bytes that the state of these parameters takes."""
        found = 0
        for name, parameter in parameters.items():
            meta = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
            by_vector(meta, vectors_of(parameter))
            found += sum(tensor.nbytes for tensor in self.state(name, meta).values())
            if parameter.dtype != torch.float32 and self.config.rounding == "kahan":
                found += parameter.nbytes
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The state of each parameter, under the parameter's name."""
        kept = {f"{n}.{key}": t for n, state in self._state.items() for key, t in state.items()}
        return kept | {f"{name}.lost": tensor for name, tensor in self._lost.items()}

    def memory_report(self) -> dict[str, int]:
        """Bytes of the tensors that are alive, those of all parameters together."""
        found: dict[str, int] = {}
        for place, tensor in self.state_dict().items():
            key = place.rpartition(".")[2]
            found[key] = found.get(key, 0) + tensor.nbytes
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the state back in its own types."""
        self._state, self._lost = {}, {}
        for place, tensor in state.items():
            name, _, key = place.rpartition(".")
            if key == "lost":
                self._lost[name] = tensor.clone()
            else:
                self._state.setdefault(name, {})[key] = tensor.clone()


def _check_finite(gradient: Tensor, name: str, step: int) -> None:
    """Look at a gradient before any state or weight has taken it in; one sum tells."""
    if not math.isfinite(float(gradient.sum())):
        raise not_finite(name, step)


def not_finite(name: str, step: int) -> DivergedError:
    """What ends a run whose gradient of a parameter is no number."""
    return DivergedError(
        f"The gradient of {name} is not finite at step {step + 1}.",
        remedy="Lower optimization.learning_rate.",
    )


def by_vector(parameter: nn.Parameter, dim: int | None) -> nn.Parameter:
    """Mark a parameter as made of vectors that come and go one by one; ``dim`` counts them.

    An optimization that counts steps counts them for each of its vectors (:func:`counts`), so that
    :meth:`PerParameter.forget` can begin some of them anew.
    """
    parameter.vectors = dim  # type: ignore[attr-defined]
    return parameter


def vectors_of(parameter: Tensor) -> int | None:
    """The dimension that counts a parameter's vectors; None where it is one whole."""
    dim: int | None = getattr(parameter, "vectors", None)
    return dim


def counts(parameter: Tensor) -> Tensor:
    """Fresh step counts, fp32: one ``()``, or one for each vector, shaped to broadcast."""
    dim = vectors_of(parameter)
    if dim is None:
        return torch.zeros((), dtype=torch.float32)
    shape = [1] * parameter.ndim
    shape[dim] = parameter.shape[dim]
    return torch.zeros(shape, dtype=torch.float32, device=parameter.device)


def _parted(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor of a state has a part for each vector of its parameter."""
    dim = vectors_of(parameter)
    if dim is None or tensor.ndim != parameter.ndim:
        return False
    return all(
        own == whole or (own == 1 and place != dim)
        for place, (own, whole) in enumerate(zip(tensor.shape, parameter.shape, strict=True))
    )


def resettable(optimization: Optimization, wanting: str) -> PerParameter:
    """The optimization, if parts of its state can be dropped.

    Raises:
        ConfigError: it moves its parameters together.
    """
    if not isinstance(optimization, PerParameter):
        raise ConfigError(
            f"The architecture {wanting!r} begins parts of the state anew, and the optimization "
            f"{optimization.name!r} moves its parameters together.",
            remedy="Choose one that extends engrain.learn.update.PerParameter, such as adamw.",
        )
    return optimization


def follow(optimization: Optimization, rules: Sequence[Rule], setting: Setting) -> None:
    """Hold an optimization to rules.

    Raises:
        ConfigError: it moves its parameters together, so no rule can be asked about each.
    """
    if not rules:
        return
    if not isinstance(optimization, PerParameter):
        raise ConfigError(
            f"The optimization {optimization.name!r} can't be held to rules "
            f"({', '.join(rule.name for rule in rules)}): it moves its parameters together.",
            remedy="Choose one that extends engrain.learn.update.PerParameter, such as adamw.",
        )
    optimization.follow(rules, setting)


class GradientRelease:
    """Takes each parameter's step inside backward, as soon as its gradient is whole.

    Raises:
        ConfigError: the optimization moves parameters together.
    """

    def __init__(self, optimization: Optimization, parameters: Mapping[str, nn.Parameter]) -> None:
        why = (
            optimization.coupling()
            if isinstance(optimization, PerParameter)
            else "it moves its parameters together"
        )
        if why:
            raise ConfigError(
                f"The optimization {optimization.name!r} can't take its steps inside backward: "
                f"{why}.",
                remedy="Set optimization.clip_scope to each, or optimization.clip to 0; or "
                "gradient_release to false.",
            )
        assert isinstance(optimization, PerParameter)
        self._optimization = optimization
        self._parameters = parameters
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._step: Callable[[], int] = lambda: -1

    @property
    def step(self) -> int:
        """The step that runs."""
        return self._step()

    def product(self, parameter: Tensor) -> Product | None:
        """How a parameter moves by the factors of its gradient; None if that must be formed."""
        name = self._names.get(id(parameter), "")
        return self._optimization.product(name, self.step) if name else None

    def took(self, product: Product) -> None:
        """After that step was taken."""
        self._optimization.passed(product.name)

    def refused(self, product: Product) -> DivergedError:
        """What ends the run where it could not be."""
        return not_finite(product.name, self.step)

    @contextmanager
    def hooked(self, step: Callable[[], int]) -> Iterator[None]:
        """Watch the gradients for a while; ``step`` tells which step a backward belongs to."""
        self._step = step

        def on_gradient(name: str) -> None:
            # A matrix that has taken its step by product has no gradient.
            if self._parameters[name].grad is not None:
                self._optimization.update(name, step())

        handles = [
            parameter.register_post_accumulate_grad_hook(lambda _, n=name: on_gradient(n))
            for name, parameter in self._parameters.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
