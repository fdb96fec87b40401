"""Reading and writing draft heads: a directory with `config.json` and `model.safetensors`.

`save_head` writes the flat layout that SafeAILab's code and SGLang read; `open_head` reads it, from SafeAILab,
SpecForge and AngelSlim alike, and heads of speculators too. `eagle.checkpoints.formats` knows the fields.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from eagle.checkpoints.card import read_length
from eagle.checkpoints.fields import FLAGS, Config, check_fields
from eagle.checkpoints.formats import config_feature_layers, flat_config, head_config, vocabulary
from eagle.checkpoints.speculators import is_speculators, to_flat
from eagle.checkpoints.tensors import MAPS, State, canonical, check_tensors, refuse_other_kinds
from eagle.checkpoints.weights import CONFIG, FIT, WEIGHTS, local_directory, read_object, read_tensors
from eagle.drafters.head import DraftHead, HeadConfig
from eagle.engine.feature_layers import default_feature_layers
from eagle.engine.placement import is_divided
from eagle.engine.target import Target
from eagle.files import atomic_file, write_json
from eagle.trees.fitted import HeadFit


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

    With a target the head is checked against it and takes its device and, unless `dtype` says otherwise, its dtype;
    the target hands out the features of the head's layers from then on. Raises FileNotFoundError when there is no
    checkpoint; ValueError for another kind of drafter, for files that are damaged, for fields, types and sizes that
    are not computed, and when the head was made for another target.
    """
    head = read_head(source, target)
    dtype = dtype or (target.dtype if target else head.fc.weight.dtype)
    head = cast_parameters(head, dtype).to(device or (target.device if target else None)).eval()
    if target is not None:
        _share_embedding(head, target)
        target.read_layers(head.config.feature_layers)
    return head


def read_head(source: str | Path, target: Target | None = None) -> DraftHead:
    """As `open_head`, with every tensor in the dtype it is stored in, and the target left as it is."""
    directory = local_directory(source)
    with _named(directory):
        config, state = read_checkpoint(directory)
        state = canonical(state)
        refuse_other_kinds(config, state)
        check_fields(config)
        config = to_flat(config) if is_speculators(config) else config
        shape = head_config(config, state, len(target.layers) if target else None)
        if target is not None:
            check_fits(shape, target)
        check_tensors(state)
        head = _filled(shape, state)
    head.fit = read_fit(directory, head)
    head.trained_length = read_length(directory)
    return head


def stored_feature_layers(source: str | Path, num_layers: int) -> tuple[int, int, int]:
    """The layers that the head at `source` reads of a target with `num_layers`, from its config.json alone."""
    directory = local_directory(source)
    with _named(directory):
        config = read_object(directory / CONFIG)
        check_fields(config)
        found = config_feature_layers(config)
        return default_feature_layers(num_layers) if found is None else found


@contextmanager
def _named(place: Path, remedy: str = "") -> Iterator[None]:
    """Every refusal names the head, or the file of it, that it is about."""
    try:
        yield
    except ValueError as error:
        told = str(error)
        raise ValueError(f"{told if str(place) in told else f'{place}: {told}'}{remedy}") from None


def read_fit(directory: Path, head: DraftHead) -> HeadFit | None:
    """What was measured of the head, None where it was not. Numbers of other weights are left out with a warning.

    Raises ValueError for a file that cannot be read, naming it.
    """
    path = directory / FIT
    if not path.is_file():
        return None
    with _named(path, "; remove it, or measure with `eagle-hsd trees fit`"):
        fit = HeadFit.from_json(read_object(path))
    if fit.head != head_fingerprint(head):
        warnings.warn(f"{path} was measured with other weights: ignored, `eagle-hsd trees fit` measures", stacklevel=2)
        return None
    return fit


def write_fit(directory: Path, fit: HeadFit) -> Path:
    """Write the numbers beside the head they were measured with; returns the file."""
    write_json(directory / FIT, fit.to_json())
    return directory / FIT


def head_fingerprint(head: DraftHead) -> str:
    """Twelve hexadecimal digits that change with any weight and flag: measurements of heads are not mixed."""
    digest = hashlib.sha256("".join(name for name in FLAGS if getattr(head.config, name)).encode())
    for tensor in head.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def check_fits(head: HeadConfig, target: Target) -> None:
    """Raises ValueError when the head was made for a target of another size."""
    sizes = {
        "hidden size": (head.target_hidden_size, target.hidden_size),
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
    """The raw config and tensors of a directory or a Hugging Face id. Raises FileNotFoundError and ValueError."""
    directory = local_directory(source)
    return read_object(directory / CONFIG), read_tensors(directory)


def write_checkpoint(directory: str | Path, config: Config, state: Mapping[str, Tensor]) -> Path:
    """Write both files, weights first; returns the directory."""
    directory = Path(directory)
    with atomic_file(directory / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary, {"format": "pt"})
    write_json(directory / CONFIG, config)
    return directory


def _share_embedding(head: DraftHead, target: Target) -> None:
    """Some publishers store the target's embedding beside the head: where it is the very same, memory is shared."""
    own = target.model.get_input_embeddings().weight.detach()
    if head.embed_tokens is not None and _are_same(head.embed_tokens.weight, own):
        head.embed_tokens.weight.data = own


def _are_same(one: Tensor, other: Tensor) -> bool:
    """Never of a tensor that is divided among processes: they would have to be asked."""
    same_place = one.dtype == other.dtype and one.device == other.device and not is_divided(other)
    return same_place and torch.equal(one, other)


def _filled(shape: HeadConfig, state: State) -> DraftHead:
    """A head of this shape with these tensors. Nothing of its size is made before all tensors are known to fit."""
    known = vocabulary(state, shape)
    with torch.device("meta"):
        head = DraftHead(shape, known)
    wanted = {name: tensor for name, tensor in head.state_dict().items() if name not in MAPS}
    given = {name: tensor for name, tensor in state.items() if name not in MAPS}
    problems = [f"missing {name}" for name in sorted(wanted.keys() - given.keys())]
    problems += [f"unexpected {name}" for name in sorted(given.keys() - wanted.keys())]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, config.json says {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & given.keys())
        if wanted[name].shape != given[name].shape
    ]
    if problems:
        raise ValueError("the checkpoint does not fit its config.json: " + "; ".join(problems))
    head.load_state_dict(given, strict=False, assign=True)
    head.rotary = LlamaRotaryEmbedding(shape.to_llama())
    return head
