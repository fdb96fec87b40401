"""Converting head checkpoints between layouts; `eagle-hsd convert` calls it."""

from pathlib import Path

from eagle.checkpoints.card import note_length
from eagle.checkpoints.flat import read_head, write_checkpoint, write_fit
from eagle.checkpoints.formats import flat_config
from eagle.checkpoints.speculators import from_flat
from eagle.engine.target import Target

LAYOUTS = ("flat", "speculators")


def convert(source: str | Path, output: str | Path, layout: str, target: Target | None = None) -> Path:
    """Write the head at `source` to `output` in another layout; returns the directory.

    Raises ValueError for what `read_head` refuses, where the target has to be named, and for the source as output.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is '{layout}', choose one of {', '.join(LAYOUTS)}")
    if Path(source).expanduser().resolve() == Path(output).expanduser().resolve():
        raise ValueError(f"the output {output} is the head to convert: name another directory, it would be overwritten")
    head = read_head(source, target)
    config, state = flat_config(head.config, head.fc.weight.dtype), head.state_dict()
    if layout == "speculators":
        if target is None:
            raise ValueError("the speculators layout names its target: pass it with --target")
        architecture = (target.model.config.architectures or ["unknown"])[0]
        config, state = from_flat(config, state, verifier_name(target), architecture)
    directory = write_checkpoint(output, config, {name: tensor.detach() for name, tensor in state.items()})
    if head.fit is not None:
        write_fit(directory, head.fit)
    if head.trained_length is not None:
        note_length(directory, head.trained_length)
    return directory


def verifier_name(target: Target) -> str:
    """What an engine finds the target by: the whole path of a directory on this machine, else its name.

    A GGUF file is found as the directory it was converted to, and so is the embedded target.
    """
    loaded_from = (getattr(target.model.config, "_name_or_path", None) or target.name, target.name)
    directories = (Path(source).expanduser() for source in loaded_from)
    return next((str(directory.resolve()) for directory in directories if directory.is_dir()), target.name)
