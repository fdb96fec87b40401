"""A traced graph made into machine code by inductor, and kept in the user's cache for the next start."""

import hashlib
import inspect
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from eagle.files import cache_dir, read_json, write_json
from eagle.kernels.compiler import kernels, machine

Run = Callable[..., Sequence[Tensor]]
GRAPH, WEIGHTS = "graph.bin", "weights.json"
ROOM = Path(__file__).parent


def lowered(model: nn.Module, what: str, identity: object, trace: Callable[[], ExportedProgram]) -> Run:
    """The graph of `trace`, called with its inputs as one flat list; from the cache where it was made before.

    `what` it is, for the line that is shown while it is compiled. `identity`: what the graph depends on beside the
    model's code, our own, torch and the machine, such as its configuration. Weights are no part of it: they are read
    where they lie, by name; those of `model` itself stand below "model." in what is traced.
    """
    kernels()  # operators have to be known before a graph that calls them is read
    folder = cache_dir() / "compiled" / _key(model, (what, identity))
    found = _read(folder)
    if found is None:
        start = time.perf_counter()
        print(f"compiling {what}, once for this model and machine ..", end="", file=sys.stderr, flush=True)
        found = _made(trace(), folder)
        print(f" {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    run, names = found
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    weights = [own[name.removeprefix("model.")] for name in names]
    return lambda *inputs: run(*weights, *inputs)


def _made(program: ExportedProgram, folder: Path) -> tuple[Run, list[str]]:
    """Raises ValueError for a graph that holds numbers which are neither weights nor inputs."""
    specs = program.graph_signature.input_specs
    names = [str(spec.target) for spec in specs if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)]
    constants = [str(spec.target) for spec in specs if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER)]
    graph = program.graph_module
    given = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    if any(spec.kind is InputKind.CONSTANT_TENSOR for spec in specs):
        raise ValueError(f"its graph holds constants ({', '.join(constants)[:80]})")
    for node in graph.graph.nodes:
        node.meta["example_value"] = node.meta.get("val")  # by this name it is asked for
    with torch.no_grad():
        options = {"config_patches": {"size_asserts": False}}  # a hundred checks a pass
        artifact = torch._inductor.standalone_compile(graph, given, dynamic_shapes="from_graph", options=options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        artifact.save(path=str(folder / GRAPH))
        write_json(folder / WEIGHTS, names)
    except (OSError, RuntimeError):  # the next start compiles again
        pass
    return artifact, names


def _read(folder: Path) -> tuple[Run, list[str]] | None:
    try:
        names = read_json(folder / WEIGHTS)
        return torch._inductor.CompiledArtifact.load(path=str(folder / GRAPH)), names
    except Exception:  # not there, of another torch, or damaged, which may raise anything: it is made again
        return None


def _key(model: nn.Module, identity: object) -> str:
    sources = [path.read_text() for path in sorted(ROOM.glob("*.py"))]
    layers = sorted({type(module).__qualname__ for module in model.modules()})
    shapes = [(name, str(weight.dtype), tuple(weight.shape)) for name, weight in model.named_parameters()]
    shapes += [(name, str(weight.dtype), tuple(weight.shape)) for name, weight in model.named_buffers()]
    own = Path(inspect.getfile(type(model))).read_text()
    parts = (layers, shapes, own, sources, transformers.__version__)
    return hashlib.sha256(repr((machine(), torch.get_num_threads(), identity, parts)).encode()).hexdigest()[:24]
