"""A model directory whose own `custom_generate/generate.py` drafts: for `transformers serve`, pipelines, any loader.

model files | config.json, weights, tokenizer, as they were
eagle_head  | the head, in the flat layout, with its numbers
custom_generate/generate.py | found by transformers where `trust_remote_code` allows it; calls `generate` below
"""

import shutil
import threading
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from eagle.checkpoints.conversion import convert
from eagle.files import write_text
from eagle.hf.accelerated import accelerate, is_accelerated
from eagle.loading import SHIPPED_HEAD, find_model, load_target

HEAD, RECIPE = "eagle_head", "custom_generate"
DEFAULT = "default"  # the embedded model, the shipped head
GENERATE = '''"""Drafts with the head beside this model and verifies: same text. Needs the package eagle-hsd."""


def generate(*args, model, **kwargs):
    try:
        from eagle.hf.exported import generate as drafted
    except ImportError as error:
        raise ImportError("this model drafts with a head of eagle-hsd: install that package") from error
    return drafted(model, *args, **kwargs)
'''
_turn = threading.Lock()  # of threads that ask a model for its first text


def export(model: str | Path, head: str | Path, output: str | Path, **loading: Any) -> Path:
    """Write a directory that holds the model, the head and the recipe; returns it.

    model, head: directories, Hugging Face ids, a GGUF file; `default`: the embedded model, the shipped head.
    loading: as in `load_target`. Raises ValueError for a pair that does not fit and for an output that holds anything.
    """
    directory = Path(output).expanduser()
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"the output {directory} is not empty: name another directory")
    source = None if str(model) == DEFAULT else model
    if loading.get("tp", 1) > 1:
        raise ValueError(f"tp is {loading['tp']}, and a model is written whole: leave it out")
    target = load_target(source, device="cpu", **loading)
    target.check_scores_trees()
    found = Path(find_model(source))
    files = found if found.is_dir() else Path(snapshot_download(str(found), revision=loading.get("revision")))
    shutil.copytree(
        files, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", HEAD, RECIPE, "files.json")
    )
    convert(SHIPPED_HEAD if str(head) == DEFAULT else head, directory / HEAD, "flat", target)
    (directory / RECIPE).mkdir()
    write_text(directory / RECIPE / "generate.py", GENERATE)
    return directory


def generate(model: Any, *args: Any, **told: Any) -> Any:
    """`model.generate` with the head that lies beside the model; on first use the model is accelerated."""
    with _turn:
        if not is_accelerated(model):
            vars(model).pop("generate", None)  # the recipe that calls this
            accelerate(model, head_beside(str(model.name_or_path)))
    return type(model).generate(model, *args, **told)


def head_beside(name: str) -> Path:
    """The head of an exported model, by its directory or Hugging Face id. Raises FileNotFoundError where none lies."""
    directory = Path(name)
    if not directory.is_dir():
        directory = Path(snapshot_download(name, allow_patterns=[f"{HEAD}/*"]))
    if not (directory / HEAD).is_dir():
        raise FileNotFoundError(f"{name} has no {HEAD}: write it with `eagle-hsd export-generate MODEL HEAD DIR`")
    return directory / HEAD
