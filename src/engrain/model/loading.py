"""Loading a causal language model and its tokenizer; every way to fail has a name and a remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engrain.errors import (
    CorruptModelError,
    ModelError,
    ModelNotFoundError,
    NoChatTemplateError,
    TokenizerMismatchError,
    UnsupportedModelError,
)
from engrain.model.digest import file_digest
from engrain.model.hardware import AUTO, choose_device, default_compute
from engrain.model.loaded import LoadedModel as LoadedModel
from engrain.model.loaded import StoredWeights
from engrain.model.locate import POCKET as POCKET
from engrain.model.locate import POCKET_FOLDER as POCKET_FOLDER
from engrain.model.locate import Located, locate, reason
from engrain.model.profile import ArchProfile, profile_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ENCODER_HEADS = ("ForMaskedLM", "ForPreTraining", "Classification", "ForQuestionAnswering")


def load_model(
    source: str = POCKET,
    *,
    dtype: str = "float32",
    local_only: bool | None = None,
    allow_no_template: bool = False,
    device: str = "cpu",
) -> LoadedModel:
    """Load ``pocket``, a model of the catalogue, a GGUF file, a folder, or a model of the hub.

    A GGUF file is converted once, into the cache. A hub id is looked up in the local cache first
    and downloaded only if ``local_only`` is not true. Nothing but safetensors is loaded, and no
    code that comes with a model is ever run. ``device`` is ``cpu``, ``cuda``, ``mps`` or ``auto``.
    The dtype ``auto`` takes bf16 for models that were stored so, where the hardware multiplies it;
    elsewhere torch would do it number by number.

    Raises:
        ModelNotFoundError: none of these is here; the remedy says how to get it.
        NoChatTemplateError: the tokenizer has no chat template (unless ``allow_no_template``).
        TokenizerMismatchError: the tokenizer has ids that the model has no embedding for.
        UnsupportedModelError: not a causal language model, quantised, or unknown architecture.
        CorruptModelError: a file of the model is damaged.
        ModelError: weights that are incomplete, no safetensors, no such device.
    """
    _check_dtype(dtype)
    place = choose_device(device)
    located = locate(source, local_only)
    live = _live_dtype(dtype, place, located)
    folder = located.folder
    config = _read_config(folder, source)
    files = _weight_files(folder, source)
    try:
        digest = file_digest(files, config)
    except Exception as error:
        raise CorruptModelError(
            f"The weights of {source!r} are corrupt: {reason(error)}.",
            remedy=f"Delete {folder} and get the model again.",
        ) from error
    if located.base_digest not in (None, digest):
        raise CorruptModelError(
            f"The files of {source!r} in {folder} are not as they were made.",
            remedy=f"Delete {folder} and get the model again.",
        )
    with quiet():
        tokenizer = _load_tokenizer(folder, source)
        model = _load_weights(folder, source, live)
    return assemble(
        model.to(place),
        tokenizer,
        source=located.source,
        base_digest=digest,
        allow_no_template=allow_no_template,
        stored=StoredWeights(files),
    )


@dataclass(frozen=True)
class Outline:
    """What a model is, as its files tell it without their weights: to decide whether to load it."""

    source: str
    tokenizer: Any
    profile: ArchProfile
    dtype: torch.dtype

    @property
    def max_length(self) -> int:
        """Tokens of context that the model takes."""
        return self.profile.max_length

    @property
    def nbytes(self) -> int:
        """Bytes of the live weights; those of the file are mapped."""
        return self.profile.parameters * self.dtype.itemsize


def outline(source: str, *, dtype: str = AUTO, device: str = AUTO) -> Outline:
    """What a model on this machine would be if it were loaded; nothing is downloaded.

    Raises:
        ModelError: as :func:`load_model` would, as far as that can be told without the weights.
    """
    from transformers import AutoModelForCausalLM

    _check_dtype(dtype)
    located = locate(source, True)
    _read_config(located.folder, source)
    _weight_files(located.folder, source)
    with quiet():
        tokenizer = _load_tokenizer(located.folder, source)
        config = _architecture(located.folder, source)
        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except ValueError as error:
            raise UnsupportedModelError(
                f"{source!r} is no model that continues text: {reason(error)}.",
                remedy="Give a causal language model (its architecture ends in ForCausalLM).",
            ) from error
    if not tokenizer.chat_template:
        raise _no_template(source)
    live = _live_dtype(dtype, choose_device(device), located)
    return Outline(located.source, tokenizer, profile_model(model), live)


def _check_dtype(dtype: str) -> None:
    if dtype not in (AUTO, *DTYPES):
        known = ", ".join((AUTO, *DTYPES))
        raise ModelError(f"Unknown dtype {dtype!r}.", remedy=f"Use one of: {known}.")


def _live_dtype(dtype: str, place: str, located: Located) -> torch.dtype:
    """The type of the live weights of a model on a device."""
    if dtype == AUTO:
        multiplied = place != "cpu" or default_compute() == "bfloat16"
        dtype = "bfloat16" if located.base_digest and multiplied else "float32"
    return DTYPES[dtype]


def _no_template(source: str) -> NoChatTemplateError:
    return NoChatTemplateError(
        f"The tokenizer of {source!r} has no chat template.",
        remedy="Use a chat model, or add 'chat_template' to its tokenizer_config.json.",
    )


def assemble(
    model: Any,
    tokenizer: Any,
    *,
    source: str,
    base_digest: str,
    allow_no_template: bool = False,
    stored: StoredWeights | None = None,
) -> LoadedModel:
    """Check that a model and a tokenizer belong together, and join them.

    ``stored`` are the files that the weights came from.

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
        raise _no_template(source)
    stop_ids = _stop_ids(model, tokenizer, profile.vocab_size)
    pad_id = tokenizer.pad_token_id
    if pad_id is None:
        pad_id = stop_ids[0] if stop_ids else 0
    return LoadedModel(
        model, tokenizer, source, base_digest, profile, stop_ids, int(pad_id), stored
    )


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
            f"{path} can't be read: {reason(error)}.", remedy="Get the model again."
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
            f"{index} can't be read: {reason(error)}.", remedy="Get the model again."
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
            f"The tokenizer of {source!r} can't be loaded: {reason(error)}.",
            remedy="Put the tokenizer.json that belongs to the weights into the model's folder.",
        ) from error


def _architecture(folder: Path, source: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise UnsupportedModelError(
            f"transformers does not know the architecture of {source!r}: {reason(error)}.",
            remedy="Update transformers, or choose a model that needs no code of its own.",
        ) from error


def _load_weights(folder: Path, source: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    config = _architecture(folder, source)
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
            f"The model {source!r} can't be loaded: {reason(error)}.",
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


@contextmanager
def quiet() -> Iterator[None]:
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
