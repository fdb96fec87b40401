"""Reading and writing draft heads: a directory with `config.json` and `model.safetensors`.

`save_head` writes the flat layout that SafeAILab's code and SGLang read; `open_head` reads it, from SafeAILab,
SpecForge and AngelSlim alike, and heads of speculators too. `eagle.checkpoints.formats` knows the fields.
"""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor

from eagle.checkpoints.card import read_length
from eagle.checkpoints.formats import Config, State, flat_config, head_config, vocabulary
from eagle.checkpoints.speculators import is_speculators, to_flat
from eagle.drafters.head import DraftHead, HeadConfig
from eagle.engine.target import Target, default_feature_layers
from eagle.files import atomic_file, read_json, write_json
from eagle.trees.fitted import HeadFit

CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
FIT = "drafting.json"  # what was measured of the head
EMBEDDING = "embed_tokens.weight"
NAMES_SHOWN = 10


def save_head(head: DraftHead, directory: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write the head so that `open_head`, SafeAILab's code and SGLang can read it; returns the directory.

    Weights are stored in `dtype` (None: as they are). Every file is replaced in one step: a reader finds the old
    file or the new one, never half of either.
    """
    state = {name: tensor.detach().cpu() for name, tensor in head.state_dict().items()}
    dtype = dtype or head.fc.weight.dtype
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return write_checkpoint(directory, flat_config(head.config, dtype), state)


def open_head(
    source: str | Path,
    target: Target | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> DraftHead:
    """A head from a directory or a Hugging Face id, in evaluation mode.

    With a target the head is checked against it and takes its device and, unless `dtype` says otherwise, its dtype.
    Raises FileNotFoundError when there is no checkpoint, ValueError when tensors are missing, unexpected or of
    another shape, and when the head was made for another target.
    """
    head = read_head(source, target)
    dtype = dtype or (target.dtype if target else head.fc.weight.dtype)
    return cast_parameters(head, dtype).to(device or (target.device if target else None)).eval()


def read_head(source: str | Path, target: Target | None = None) -> DraftHead:
    """As `open_head`, with every tensor in the dtype it is stored in."""
    directory = local_directory(source)
    config, state = read_checkpoint(directory)
    if is_speculators(config):
        config, state = to_flat(config, state)
    shape = head_config(config, state, default_feature_layers(len(target.layers)) if target else None)
    if target is not None:
        check_fits(shape, target)
    _release_embedding(state, target)
    head = DraftHead(shape, vocabulary(state, shape))
    _fill(head, state)
    head.fit = read_fit(directory, head)
    head.trained_length = read_length(directory)
    return head


def read_fit(directory: Path, head: DraftHead) -> HeadFit | None:
    """What was measured of the head, None where it was not. Numbers of other weights are left out with a warning.

    Raises ValueError for a file that cannot be read, naming it.
    """
    path = directory / FIT
    if not path.is_file():
        return None
    try:
        fit = HeadFit.from_json(read_json(path))
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {error}; remove it, or measure with `eagle-hsd trees fit`") from None
    if fit.head != head_fingerprint(head):
        warnings.warn(f"{path} was measured with other weights: ignored, `eagle-hsd trees fit` measures", stacklevel=2)
        return None
    return fit


def write_fit(directory: Path, fit: HeadFit) -> Path:
    """Write the numbers beside the head they were measured with; returns the file."""
    write_json(directory / FIT, fit.to_json())
    return directory / FIT


def head_fingerprint(head: DraftHead) -> str:
    """Twelve hexadecimal digits that change with any weight: measurements of one head are not mixed with another's."""
    digest = hashlib.sha256()
    for tensor in head.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def check_fits(head: HeadConfig, target: Target) -> None:
    """Raises ValueError when the head was made for a target of another size."""
    sizes = {
        "hidden size": (head.target_hidden_size, target.hidden_size),
        "embedding size": (head.hidden_size, target.hidden_size),  # the head reads the target's own embeddings
        "vocabulary size": (head.vocab_size, target.vocab_size),
    }
    for name, (wanted, found) in sizes.items():
        if wanted != found:
            raise ValueError(
                f"the head was made for a target with {name} {wanted}, {target.name} has {found}: "
                "use this target's own head, or train one with `eagle-hsd train`"
            )
    if max(head.feature_layers) >= len(target.layers):
        raise ValueError(
            f"the head reads the inputs of layers {head.feature_layers}, {target.name} has only {len(target.layers)}: "
            "use this target's own head, or train one with `eagle-hsd train`"
        )


def cast_parameters(head: DraftHead, dtype: torch.dtype) -> DraftHead:
    """Convert the parameters and leave buffers alone: rotary frequencies lose positions in half precision."""
    for parameter in head.parameters():
        parameter.data = parameter.data.to(dtype)
    return head


def read_checkpoint(source: str | Path) -> tuple[Config, State]:
    """The raw config and tensors of a directory or a Hugging Face id. Raises FileNotFoundError."""
    directory = local_directory(source)
    config_file, weights, old = directory / CONFIG, directory / WEIGHTS, directory / OLD_WEIGHTS
    if not config_file.is_file() or not (weights.is_file() or old.is_file()):
        raise FileNotFoundError(
            f"no draft head in {directory}: it must hold {CONFIG} and {WEIGHTS} (or {OLD_WEIGHTS}); "
            "found " + (", ".join(sorted(path.name for path in directory.iterdir())[:NAMES_SHOWN]) or "nothing")
        )
    state = load_file(weights) if weights.is_file() else torch.load(old, map_location="cpu", weights_only=True)
    return read_json(config_file), state


def write_checkpoint(directory: str | Path, config: Config, state: Mapping[str, Tensor]) -> Path:
    """Write both files, weights first; returns the directory."""
    directory = Path(directory)
    with atomic_file(directory / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary, {"format": "pt"})
    write_json(directory / CONFIG, config)
    return directory


def local_directory(source: str | Path) -> Path:
    """The directory, or the fetched files of a Hugging Face id. Raises FileNotFoundError."""
    directory = Path(source).expanduser()
    if directory.is_dir():
        return directory
    try:
        return Path(snapshot_download(str(source), allow_patterns=[CONFIG, WEIGHTS, OLD_WEIGHTS, FIT]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"no draft head at '{source}': neither a directory nor a Hugging Face id that can be fetched ({error})"
        ) from error


def _release_embedding(state: State, target: Target | None) -> None:
    """Some publishers store the target's embedding beside the head; it is dropped only when it is the target's own."""
    if EMBEDDING not in state:
        return
    if target is None:
        raise ValueError(f"the file holds {EMBEDDING}: pass the target, so that it can be compared with its embedding")
    stored = state.pop(EMBEDDING)
    own = target.model.get_input_embeddings().weight.detach().cpu()
    if stored.shape != own.shape or not torch.allclose(stored.float(), own.float(), rtol=1e-2, atol=1e-3):
        raise ValueError(
            f"the file's {EMBEDDING} {tuple(stored.shape)} is not the embedding of {target.name} {tuple(own.shape)}: "
            "this head was trained beside another target"
        )


def _fill(head: DraftHead, state: State) -> None:
    wanted = {name: tensor for name, tensor in head.state_dict().items() if name not in ("d2t", "t2d")}
    given = {name: tensor for name, tensor in state.items() if name not in ("d2t", "t2d")}
    problems = [f"missing {name}" for name in sorted(wanted.keys() - given.keys())]
    problems += [f"unexpected {name}" for name in sorted(given.keys() - wanted.keys())]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, config.json says {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & given.keys())
        if wanted[name].shape != given[name].shape
    ]
    if problems:
        raise ValueError("the checkpoint does not fit its config.json: " + "; ".join(problems))
    for name, parameter in head.named_parameters():
        parameter.data = given[name].to(parameter.device)
