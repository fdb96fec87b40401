"""From a configuration to a trained head: what `eagle-hsd train` calls."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from rich.progress import track

from eagle.checkpoints.flat import head_fingerprint, stored_feature_layers
from eagle.data.answered_drafted import drafted_sessions
from eagle.data.batches import (
    Example,
    apart_from,
    collate,
    data_fingerprint,
    plan_epoch,
    read_examples,
    split_held_out,
)
from eagle.data.preparation import prepare
from eagle.data.prepare_config import PrepareConfig
from eagle.data.prepared import SETTINGS
from eagle.drafters.head import DraftHead
from eagle.engine.target import Target
from eagle.files import check_same, only_writer, read_json, remove_leftovers, write_json
from eagle.load_options import loading_options
from eagle.loading import choose_device, load_target
from eagle.options import identity, load
from eagle.parallel.sharding import shard_layers
from eagle.training.feature_store import FeatureStore, StoredSignals, store_bytes
from eagle.training.initialise import make_head
from eagle.training.metrics import Evaluation
from eagle.training.plots import plot_run
from eagle.training.resume import check_same_run
from eagle.training.signals import OnlineSignals, SignalSource
from eagle.training.steps import law_positions
from eagle.training.target_snapshot import FACTS, TargetFacts
from eagle.training.train_config import Sources, TrainConfig
from eagle.training.trainer import Material, Trainer

PREPARED = "prepared"  # in a directory of data: its making ended


def train(config: TrainConfig, accelerator: Accelerator | None = None) -> Evaluation:
    """Train or resume the run at `config.output`, and draw its plots.

    Raises ValueError when the run was started with something else, or when data, target and head do not fit.
    """
    accelerator = accelerator or make_accelerator(config.precision)
    with sole_writer(accelerator, written_by(config)):
        return _train(config, accelerator)


def _train(config: TrainConfig, accelerator: Accelerator) -> Evaluation:
    material = open_material(config, accelerator)
    head = make_head(config.initialisation, material.facts, material.target, material.examples).to(accelerator.device)
    if accelerator.is_main_process:
        check_same_run(Path(config.output), run_identity(config, material, head))
    accelerator.wait_for_everyone()
    trainer = Trainer(config, head, make_signals(config.features, material, accelerator), material, accelerator)
    tokens, parameters = sum(map(len, material.examples)), sum(p.numel() for p in head.parameters())
    accelerator.print(
        f"{len(material.examples)} conversations, {tokens / 1e6:.2f} M tokens; {len(material.held_out)} held out; "
        f"{trainer.num_steps} steps, {trainer.progress.step} done; head of {parameters / 1e6:.1f} M parameters"
    )
    evaluation = trainer.run()
    if accelerator.is_main_process:
        for path in plot_run(Path(config.output)):
            accelerator.print(f"wrote {path}")
    return evaluation


def written_by(config: TrainConfig) -> list[Path]:
    """The directories that no other run may write to."""
    filled = [Path(config.features)] if config.features is not None and config.fill_features else []
    return [Path(config.output), *filled]


@contextmanager
def sole_writer(accelerator: Accelerator, directories: Sequence[Path]) -> Iterator[None]:
    """Hold directories for the processes of this run, and clear up what killed ones have left there.

    Raises ValueError that names the process that holds one already.
    """
    with ExitStack() as held:
        for directory in directories if accelerator.is_main_process else ():
            held.enter_context(only_writer(directory))
            for part in (directory, directory / "best", directory / "last"):
                remove_leftovers(part)
        yield


def leave() -> None:
    """The end of a process among many: it waits for the others and closes their group.

    One that just ends while its communication threads run can be aborted by the C++ runtime, after its work was done.
    """
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()


def write_features(config: TrainConfig) -> None:
    """Store the features of all conversations of the run, held-out ones too; goes on where it was interrupted."""
    accelerator = make_accelerator(config.precision)
    with sole_writer(accelerator, [Path(str(config.features))]):
        _write_features(config, accelerator)


def _write_features(config: TrainConfig, accelerator: Accelerator) -> None:
    material = open_material(config, accelerator)
    signals = make_signals(config.features, material, accelerator)
    examples = [*material.examples, *material.held_out]
    plan = plan_epoch([len(example) for example in examples], config.tokens_per_batch, config.seed, epoch=0)
    mine = plan[accelerator.process_index :: accelerator.num_processes]
    for rows in track(mine, "writing features", disable=not accelerator.is_main_process):
        batch = collate(examples, rows).to(accelerator.device)
        signals.read(batch, law_positions(batch.loss_mask))


def make_accelerator(precision: str) -> Accelerator:
    """One process or as many as `accelerate launch` or torchrun started.

    Without an accelerator accelerate has to be told, or processes on CPUs do not find each other.
    """
    on_cpu = choose_device().type == "cpu"
    return Accelerator(mixed_precision=precision, cpu=on_cpu, step_scheduler_with_optimizer=False)


def open_material(config: TrainConfig, accelerator: Accelerator) -> Material:
    """Load the target, or what is stored of it, and the conversations."""
    Path(config.output).mkdir(parents=True, exist_ok=True)
    sources, target = config.sources, None
    if sources.features is None or sources.fill_features:
        dtype = getattr(torch, sources.target_dtype)
        place = torch.device("cpu") if sources.shard_target else accelerator.device
        target = load_target(sources.target, dtype, place, **loading_options(config))
        if sources.shard_target:
            shard_layers(target, accelerator.device, accelerator.num_processes)
        if config.initial_head is not None:  # before the facts are taken: it decides what the features are
            target.read_layers(stored_feature_layers(config.initial_head, len(target.layers)))
    facts = load_facts(sources.features, target).to(accelerator.device)
    with accelerator.main_process_first():  # the data may be made or grow: others must not see less than the first
        make_data(sources, target)
        known = Path(config.output) / "conversations.json"
        examples, held_out = load_examples(sources, known, facts, accelerator)
    return Material(target, facts, examples, held_out)


def make_data(sources: Sources, target: Target | None) -> None:
    """Prepare the conversations with `sources.prepare`, or finish preparing them; data from elsewhere is left alone."""
    if sources.data is None or sources.prepare is None or (Path(sources.data) / PREPARED).is_file():
        return
    if Path(sources.data).exists() and not (Path(sources.data) / SETTINGS).is_file():
        return
    settings = load(PrepareConfig, sources.prepare, output=sources.data)
    if target is None or target.tokenizer is None:
        raise ValueError(f"{sources.data} is incomplete and making it needs the target: unset features for this run")
    attention = target.config._attn_implementation  # generating replaces it
    model = target.model if settings.answers_here else None
    sessions = drafted_sessions(target, settings.head, settings.batch)
    prepare(settings, model, target.tokenizer, target.end_ids_with(settings.template), new_session=sessions)
    target.model.set_attn_implementation(attention)
    (Path(sources.data) / PREPARED).touch()


def load_facts(features: str | None, target: Target | None) -> TargetFacts:
    """From the target, or from the stored features. Raises ValueError when both are there and differ."""
    stored = None
    if features is not None and (Path(features) / FACTS).is_file():
        stored = TargetFacts.load(Path(features))
    if target is None:
        if stored is None:
            raise ValueError(f"features {features} holds none: write them with `eagle-hsd features`")
        return stored
    facts = TargetFacts.of(target)
    if stored is not None:
        check_same(Path(str(features)), stored.identity, facts.identity, "use another directory")
    return facts


def make_signals(features: str | None, material: Material, accelerator: Accelerator) -> SignalSource:
    """Online, stored, or stored as they come."""
    facts, examples = material.facts, [*material.examples, *material.held_out]
    online = None if material.target is None else OnlineSignals(material.target, facts.output_layer)
    if features is None:
        assert online is not None
        return online
    if online is not None and accelerator.is_main_process:
        prepare_store(Path(features), facts, examples, accelerator.print)
    accelerator.wait_for_everyone()
    store = FeatureStore(features, writer=accelerator.process_index)
    return StoredSignals(store, facts, {example.id: example for example in examples}, online)


def prepare_store(directory: Path, facts: TargetFacts, examples: Sequence[Example], say: Callable[[str], None]) -> None:
    """Make the directory and say how much it will hold. Raises ValueError when the disk has no room for it."""
    directory.mkdir(parents=True, exist_ok=True)
    done = FeatureStore(directory)
    missing = [example for example in examples if example.id not in done]
    needed, free = store_bytes(missing, facts), shutil.disk_usage(directory).free
    say(f"features of {len(missing)} conversations will take {needed / 1e9:.2f} GB in {directory}")
    if needed > free:
        raise ValueError(
            f"{directory} has {free / 1e9:.2f} GB left, {needed / 1e9:.2f} are needed: choose another disk"
        )
    if not (directory / FACTS).is_file():
        facts.save(directory)


def load_examples(
    sources: Sources, known: Path, facts: TargetFacts, accelerator: Accelerator
) -> tuple[list[Example], list[Example]]:
    """Training and held-out conversations, those of the first start when the run is resumed.

    known: the file that lists them. Files that grow while a run trains are no trouble: conversations that came later
    are left out, with a message.
    """
    limit = min(sources.max_length, facts.sizes.context_limit)
    if sources.data is None:
        stored = [example.first(limit) for example in FeatureStore(str(sources.features)).examples()]
        examples = [example for example in stored if example.loss_mask.any()]
    else:
        examples, skipped = read_examples(sources.data, limit, facts.sizes.vocab_size)
        for reason, count in skipped.items():
            accelerator.print(f"skipped {count} conversations: {reason}")
    examples = frozen(known, examples, accelerator)
    if sources.held_out_data is None:
        return split_held_out(examples, sources.num_held_out)
    held_out, _ = read_examples(sources.held_out_data, limit, facts.sizes.vocab_size)
    held_out = held_out[: sources.num_held_out]
    return apart_from(held_out, examples), held_out


def frozen(path: Path, examples: Sequence[Example], accelerator: Accelerator) -> list[Example]:
    """The conversations whose ids `path` lists, in its order; on the first start the main process writes it.

    Raises ValueError when some are no longer there.
    """
    if accelerator.is_main_process and not path.is_file():
        write_json(path, [example.id for example in examples])
    wanted, found = read_json(path), {example.id: example for example in examples}
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise ValueError(f"{path} is no list of conversations: restore it, or give another output")
    if lost := [name for name in wanted if name not in found]:
        raise ValueError(f"{len(lost)} conversations this run started with are gone, as {lost[0]}: restore the data")
    if len(found) > len(wanted):
        accelerator.print(f"{len(found) - len(wanted)} conversations came after the run began and are left out")
    return [found[name] for name in wanted]


def run_identity(config: TrainConfig, material: Material, head: DraftHead | None = None) -> dict[str, object]:
    """What must be the same when a run is resumed; of files and directories what they hold, not where they are.

    head: as it was made, before any step.
    """
    known = {} if head is None else {"vocabulary_sha256": hashlib.sha256(head.d2t.cpu().numpy().tobytes()).hexdigest()}
    if head is not None and config.initial_head is not None:
        known["initial_head_sha256"] = head_fingerprint(head)
    return {
        **identity(config),
        **known,
        "target_name": material.facts.sizes.name,
        "target_sha256": material.facts.identity["weights_sha256"],
        "data_sha256": data_fingerprint(material.examples),
        "held_out_sha256": data_fingerprint(material.held_out),
    }
