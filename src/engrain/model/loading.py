"""Loading a causal language model and its tokenizer; every way to fail has a name and a remedy."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engrain.errors import (
    ModelError,
    ModelNotFoundError,
    NoChatTemplateError,
    TokenizerMismatchError,
    UnsupportedModelError,
)
from engrain.model.digest import file_digest, tensor_digest
from engrain.model.profile import ArchProfile, profile_model

POCKET = "pocket"
POCKET_FOLDER = Path(__file__).parent / "pocket"
POCKET_VARIABLE = "ENGRAIN_POCKET"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
SAMPLE = 64
"""Values of each tensor that tell whether it was written."""
ENCODER_HEADS = ("ForMaskedLM", "ForPreTraining", "Classification", "ForQuestionAnswering")


@dataclass(eq=False)
class LoadedModel:
    """A model in evaluation mode with its tokenizer and what is known of both.

    The weights that the model was loaded with are kept aside, so a state is always folded from
    them and never from weights that were changed before.
    """

    model: Any
    tokenizer: Any
    source: str
    base_digest: str
    profile: ArchProfile
    stop_ids: tuple[int, ...]
    pad_id: int
    _parameters: dict[str, torch.nn.Parameter] = field(init=False, repr=False)
    _base: dict[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.model.eval()
        # Parameters are kept by the name they have now: wrapping modules, as PEFT does, renames.
        self._parameters = dict(self.model.named_parameters())
        self._base = {name: _smallest(p.detach()) for name, p in self._parameters.items()}

    @property
    def max_length(self) -> int:
        """Tokens of context that the model takes."""
        return self.profile.max_length

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self._parameters.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the model computes in."""
        return next(iter(self._parameters.values())).dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the live weights and of those that were kept aside."""
        tensors = (*self._parameters.values(), *self._base.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def revision(self) -> int:
        """A number that changes when the weights of the model do, announced or not.

        It is taken from the tensors' own write counters and, since fused optimisers do not count,
        from a sample of the values; the engine binds its cache to it.
        """
        tensors = (*self.model.parameters(), *self.model.buffers())
        return hash(tuple(_trace(tensor) for tensor in tensors))

    def weights(self) -> dict[str, Tensor]:
        """The live parameters by name, tied ones once; detached, not copied."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def base_weights(self) -> dict[str, Tensor]:
        """Fresh fp32 copies of the weights that the model was loaded with, on the CPU."""
        return {name: tensor.to(torch.float32, copy=True) for name, tensor in self._base.items()}

    def stored(self) -> Mapping[str, Tensor]:
        """The weights that the model was loaded with, on the CPU; maybe bf16, never written."""
        return self._base

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy a whole state into the live parameters, in place; tied ones stay tied.

        Raises:
            ModelError: a name is missing or unknown, or a shape differs; nothing was changed.
        """
        wrong = sorted(set(weights) ^ set(self._parameters)) or sorted(
            name for name, tensor in weights.items() if tensor.shape != self._parameters[name].shape
        )
        if wrong:
            raise ModelError(
                f"The weights do not fit the model ({len(wrong)} names, the first: {wrong[0]!r}).",
                remedy="Fold them from the base weights of this model.",
            )
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(weights[name])

    def reset(self) -> None:
        """Put back the weights that the model was loaded with."""
        self.set_weights(self._base)

    @contextmanager
    def untaught(self) -> Iterator[None]:
        """Hold the weights that the model was loaded with; those before come back, to the bit.

        Only the parameters that differ are kept aside: a lesson mostly changes a part of them.
        """
        live = self.weights()
        changed = {name: live[name].clone() for name in self.changed_since(self._base)}
        with torch.no_grad():
            for name in changed:
                self._parameters[name].copy_(self._base[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in changed.items():
                    self._parameters[name].copy_(tensor)

    def weights_digest(self) -> str:
        """The digest of the live parameters."""
        return tensor_digest(self.weights())

    def changed_since(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Names of the parameters whose bits are not those of ``weights``."""
        changed = []
        for name, parameter in self._parameters.items():
            expected = weights.get(name)
            live = parameter.detach().cpu().contiguous()
            if (
                expected is None
                or expected.shape != live.shape
                or not torch.equal(_bits(live), _bits(expected.detach().cpu().to(live.dtype)))
            ):
                changed.append(name)
        return changed

    def clone(self) -> LoadedModel:
        """A candidate copy with its own parameters; the tokenizer and the base are shared."""
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model)
        twin._parameters = dict(twin.model.named_parameters())
        return twin


def _trace(tensor: Tensor) -> tuple[int, int, bytes]:
    """What tells a tensor from the same one after a write."""
    flat = tensor.detach().reshape(-1)
    sample = flat[:: max(1, flat.numel() // SAMPLE)][: SAMPLE + 1].cpu().contiguous()
    version = 0 if tensor.is_inference() else tensor._version
    return id(tensor), version, sample.view(torch.uint8).numpy().tobytes()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _smallest(tensor: Tensor) -> Tensor:
    """A private CPU copy, as bf16 where that loses no bit: most checkpoints were stored so."""
    if tensor.dtype == torch.float32:
        half = tensor.to(torch.bfloat16)
        if torch.equal(_bits(half.to(torch.float32)), _bits(tensor)):
            return half.cpu()
    return tensor.cpu().clone()


def load_model(
    source: str = POCKET,
    *,
    dtype: str = "float32",
    local_only: bool | None = None,
    allow_no_template: bool = False,
    device: str = "cpu",
) -> LoadedModel:
    """Load ``pocket``, a local folder, or a model of the Hugging Face hub.

    A hub id is looked up in the local cache first and downloaded only if ``local_only`` is not
    true. Only safetensors are read, and no code that comes with a model is ever run.

    Raises:
        ModelNotFoundError: neither a folder with a model nor a reachable hub id.
        NoChatTemplateError: the tokenizer has no chat template (unless ``allow_no_template``).
        TokenizerMismatchError: the tokenizer has ids that the model has no embedding for.
        UnsupportedModelError: not a causal language model, quantised, or unknown architecture.
        ModelError: weights that are corrupt or incomplete, or no safetensors.
    """
    if dtype not in DTYPES:
        raise ModelError(f"Unknown dtype {dtype!r}.", remedy=f"Use one of: {', '.join(DTYPES)}.")
    folder = _locate(source, local_only)
    config = _read_config(folder, source)
    files = _weight_files(folder, source)
    try:
        digest = file_digest(files, config)
    except Exception as error:
        raise ModelError(
            f"The weights of {source!r} are corrupt: {_reason(error)}.",
            remedy=f"Delete {folder} and get the model again.",
        ) from error
    with _quiet():
        tokenizer = _load_tokenizer(folder, source)
        model = _load_weights(folder, source, DTYPES[dtype])
    return assemble(
        model.to(device),
        tokenizer,
        source=source,
        base_digest=digest,
        allow_no_template=allow_no_template,
    )


def assemble(
    model: Any,
    tokenizer: Any,
    *,
    source: str,
    base_digest: str,
    allow_no_template: bool = False,
) -> LoadedModel:
    """Check that a model and a tokenizer belong together, and join them.

    Raises:
        TokenizerMismatchError: the tokenizer is empty or has ids beyond the embedding.
        NoChatTemplateError: the tokenizer has no chat template (unless ``allow_no_template``).
    """
    profile = profile_model(model)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest < 0 or largest >= profile.vocab_size:
        raise TokenizerMismatchError(
            f"The tokenizer of {source!r} has ids up to {largest}; "
            f"the model has embeddings for {profile.vocab_size}.",
            remedy="Use the tokenizer that came with the weights.",
        )
    if not tokenizer.chat_template and not allow_no_template:
        raise NoChatTemplateError(
            f"The tokenizer of {source!r} has no chat template.",
            remedy="Use a chat model, or add 'chat_template' to its tokenizer_config.json.",
        )
    stop_ids = _stop_ids(model, tokenizer, profile.vocab_size)
    pad_id = tokenizer.pad_token_id
    if pad_id is None:
        pad_id = stop_ids[0] if stop_ids else 0
    return LoadedModel(model, tokenizer, source, base_digest, profile, stop_ids, int(pad_id))


def _locate(source: str, local_only: bool | None) -> Path:
    if source == POCKET:
        return _pocket()
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    looks_like_path = path.exists() or path.is_absolute() or source.startswith((".", "~"))
    if looks_like_path or not HUB_ID.fullmatch(source):
        raise ModelNotFoundError(
            f"There is no model folder {source!r}.",
            remedy="Give a folder with config.json and safetensors, a hub id, or 'pocket'.",
        )
    return _from_hub(source, local_only)


def _pocket() -> Path:
    folders = [POCKET_FOLDER]
    if os.environ.get(POCKET_VARIABLE):
        folders.insert(0, Path(os.environ[POCKET_VARIABLE]).expanduser())
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    raise ModelNotFoundError(
        f"The pocket model is not in {folders[0]}.",
        remedy=f"Install engrain again, or set {POCKET_VARIABLE} to a folder that holds it.",
    )


def _from_hub(source: str, local_only: bool | None) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    error: Exception | None = None
    for offline in (True,) if local_only else (True, False):
        try:
            found = Path(
                snapshot_download(
                    source,
                    allow_patterns=MODEL_FILES,
                    ignore_patterns=["*/*"],
                    local_files_only=offline,
                )
            )
        except Exception as problem:
            # The hub client raises OSError, ValueError and errors of its HTTP library alike.
            error = problem
            continue
        if not offline or _is_complete(found):
            return found
    raise ModelNotFoundError(
        f"There is no model {source!r} on this machine"
        + ("." if local_only else f", and the hub did not give it: {_reason(error)}."),
        remedy=f"Check the name, or fetch it first with: hf download {source}",
    ) from error


def _is_complete(folder: Path) -> bool:
    """Whether a cached snapshot has its weights: other programs may have cached parts of it."""
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ()
    except (ValueError, KeyError, OSError):
        return False
    needed = {"config.json", *(names or ("model.safetensors",))}
    return all((folder / name).exists() for name in needed)


def _read_config(folder: Path, source: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise ModelNotFoundError(
            f"{folder} holds {'an adapter' if adapter else 'no config.json'}, not a model.",
            remedy="Give the folder of a whole model as transformers saves it.",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(
            f"{path} can't be read: {_reason(error)}.", remedy="Get the model again."
        ) from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise UnsupportedModelError(
            f"{path} names no model_type.", remedy="Give a model that transformers can load."
        )
    names = [str(name) for name in config.get("architectures") or ()]
    if config.get("is_encoder_decoder") or any(n.endswith(ENCODER_HEADS) for n in names):
        raise UnsupportedModelError(
            f"{source!r} is a {', '.join(names) or config['model_type']}: not a model that "
            "continues text.",
            remedy="Give a causal language model (its architecture ends in ForCausalLM).",
        )
    if config.get("quantization_config"):
        raise UnsupportedModelError(
            f"{source!r} has quantised weights, which can't be folded exactly.",
            remedy="Give the model in bf16 or fp32.",
        )
    return config


def _weight_files(folder: Path, source: str) -> list[Path]:
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        raise ModelError(
            f"{source!r} has no safetensors weights"
            + (", only pickled ones, which may run code when they are read." if pickled else "."),
            remedy="Save it with save_pretrained (it writes safetensors) or choose another model.",
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, OSError) as error:
        raise ModelError(
            f"{index} can't be read: {_reason(error)}.", remedy="Get the model again."
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelNotFoundError(
            f"{source!r} lacks {len(missing)} of {len(names)} weight files ({missing[0]}).",
            remedy="Get the model again; the download was not finished.",
        )
    return [folder / name for name in names]


def _load_tokenizer(folder: Path, source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise TokenizerMismatchError(
            f"The tokenizer of {source!r} can't be loaded: {_reason(error)}.",
            remedy="Put the tokenizer.json that belongs to the weights into the model's folder.",
        ) from error


def _load_weights(folder: Path, source: str, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UnsupportedModelError(
            f"transformers does not know the architecture of {source!r}: {_reason(error)}.",
            remedy="Update transformers, or choose a model that needs no code of its own.",
        ) from error

    try:
        # Left open, the attention implementation is sdpa where the model has it, else eager.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, info = loaded
    except Exception as error:
        unknown = isinstance(error, ValueError) and "AutoModel" in str(error)
        kind = UnsupportedModelError if unknown else ModelError
        raise kind(
            f"The model {source!r} can't be loaded: {_reason(error)}.",
            remedy="Give a causal language model with whole safetensors weights.",
        ) from error
    # transformers fills what a checkpoint lacks with random numbers; a ledger must not stand on it.
    lacking = sorted(info.get("missing_keys") or ())
    if lacking:
        raise ModelError(
            f"The weights of {source!r} lack {len(lacking)} tensors (the first: {lacking[0]}).",
            remedy="Get the model again, or check that config.json belongs to the weights.",
        )
    if not _is_causal(model):
        raise UnsupportedModelError(
            f"{source!r} looks ahead: it is not a model that continues text.",
            remedy="Give a causal language model (its architecture ends in ForCausalLM).",
        )
    return model


@torch.inference_mode()
def _is_causal(model: Any) -> bool:
    """Whether the second token leaves what is predicted after the first alone.

    Encoders load as causal models, too; only their behaviour tells.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[1 % vocabulary, 2 % vocabulary], [1 % vocabulary, vocabulary - 1]])
    first = model.eval()(input_ids=ids, use_cache=False).logits[:, 0].float()
    tolerance = 1e-5 if model.dtype == torch.float32 else 1e-2
    return bool(torch.allclose(first[0], first[1], rtol=tolerance, atol=tolerance))


def _stop_ids(model: Any, tokenizer: Any, vocabulary: int) -> tuple[int, ...]:
    """Ids that end an answer: those the model names, and the one its chat template writes."""
    found: list[Any] = []
    settings = getattr(model, "generation_config", None)
    for value in (
        getattr(settings, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
        _turn_end(tokenizer),
    ):
        found.extend(value if isinstance(value, (list, tuple)) else [value])
    ids = {int(item) for item in found if item is not None}
    return tuple(sorted(item for item in ids if 0 <= item < vocabulary))


def _turn_end(tokenizer: Any) -> int | None:
    """The special token that the chat template puts right after what the assistant says."""
    if not tokenizer.chat_template:
        return None
    answer = "zqxanswer"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "zqxquestion"}, {"role": "assistant", "content": answer}],
            tokenize=False,
        )
    except Exception:
        # A template that refuses this pair refuses it again, with its reason, when it is used.
        return None
    tail = str(text).rpartition(answer)[2].lstrip()
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    if not ids:
        return None
    # Not only the tokens with a role of their own, such as eos: any that is marked special.
    added = tokenizer.added_tokens_decoder.get(ids[0])
    return int(ids[0]) if added is not None and added.special else None


def _reason(error: BaseException | None) -> str:
    """The first line of an error, short enough to stand inside a sentence."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text[:200].rstrip(". ")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and notes off the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
