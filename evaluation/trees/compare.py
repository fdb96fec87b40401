"""Compare draft trees on recorded contexts by the exact expected number of accepted tokens: table, CSV and plot.

eagle-hsd trees record && eagle-hsd trees compare         # benchmarks, the shipped head
eagle-hsd trees compare --held-out --arms configs/trees/tuning.yaml
eagle-hsd trees compare --shard 0/2 & eagle-hsd trees compare --shard 1/2 & wait
eagle-hsd trees compare --report-only                     # the table of what has been measured
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eagle.checkpoints.flat import head_fingerprint
from eagle.engine.target import Target
from eagle.files import only_writer, remove_leftovers
from eagle.judging import COUPLED, VERIFIERS
from eagle.load_options import LoadOptions, add_loading_flags, loading_options
from eagle.loading import load_head, load_target
from eagle.options import CommandParser, check_options, option
from eagle.planner import plan as plan_tree
from evaluation.arms import weights_digest
from evaluation.trees.comparison import ALL, lines, plot, tree_cells, write_csv
from evaluation.trees.contexts import HELD_OUT, Context, check_vocabulary, read_contexts
from evaluation.trees.early_exit import EarlyExit
from evaluation.trees.laboratory import SAMPLINGS, USUAL, Plan, TreeArm, read_arms, read_rows, run
from evaluation.trees.shared import DraftSource, HeadSource

DEFAULT_ARMS = Path(__file__).parents[2] / "configs/trees/laboratory.yaml"


@dataclass(frozen=True)
class CompareConfig(LoadOptions):
    """Options of `eagle-hsd trees compare`. Raises ValueError at construction for values outside their range."""

    target: str | None = option(None, "Hugging Face id, directory or GGUF file; the embedded SmolLM2 by default")
    head: str | None = option(None, "draft head, directory or Hugging Face id; the shipped one by default")
    contexts: str = option("runs/laboratory/contexts.jsonl", "file of `trees record`")
    output: str = option("runs/laboratory", "a directory below it a plan")
    arms: str = option(str(DEFAULT_ARMS), "YAML file of the trees to compare")
    budgets: tuple[int, ...] = option((), "node budgets; those of the file by default", at_least=2, at_most=4096)
    samplings: tuple[str, ...] = option(USUAL, "of targets", choices=tuple(SAMPLINGS), each_once=True)
    num_draws: int = option(Plan.num_draws, "trees of a policy that draws", at_least=1, at_most=1000)
    seed: int = option(Plan.seed, "of the draws")
    held_out: bool = option(False, "held-out prompts, to tune on, not the benchmarks")
    max_contexts: int | None = option(None, "the first of a fixed shuffle; all by default", at_least=1)
    minutes: float | None = option(None, "stop then; the next run goes on", above=0)
    shard: str = option("0/1", "'i/n': every n-th context, to run n processes side by side")
    synthetic: bool = option(False, "draft with the target's own early exit, before a head exists")
    report_only: bool = option(False, "the table of what has been measured")
    verifiers: tuple[str, ...] = option(
        ("walk", "hsd", COUPLED), "in the printed table", choices=VERIFIERS, each_once=True
    )

    def __post_init__(self) -> None:
        check_options(self)
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard)
        if not found or int(found[1]) >= int(found[2]):
            raise ValueError(f"shard is '{self.shard}', expected 'i/n' with i from 0 to n - 1")

    @property
    def shard_name(self) -> str:
        return self.shard.replace("/", "-of-")

    @property
    def part(self) -> tuple[int, int]:
        """Number of the shard, and how many there are."""
        index, count = self.shard.split("/")
        return int(index), int(count)


def compare_flags(argv: Sequence[str] | None) -> CompareConfig:
    default = CompareConfig()
    parser = CommandParser(__doc__)
    parser.add_argument("--target", help="Hugging Face id, directory or GGUF file (default: the embedded SmolLM2)")
    parser.add_argument("--head", help="directory or Hugging Face id of a draft head (default: the shipped one)")
    parser.add_argument("--contexts", default=default.contexts)
    parser.add_argument("--output", default=default.output, help="a directory below it a plan")
    parser.add_argument("--arms", default=default.arms, help="YAML file of the trees to compare")
    parser.add_argument("--budgets", type=int, nargs="+", default=(), help="node budgets (default: those of the file)")
    parser.add_argument("--samplings", nargs="+", choices=SAMPLINGS, default=default.samplings)
    parser.add_argument("--num-draws", type=int, default=default.num_draws, help="trees of a policy that draws")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--held-out", action="store_true", help="held-out prompts, to tune on, not the benchmarks")
    parser.add_argument("--max-contexts", type=int, help="the first of a fixed shuffle")
    parser.add_argument("--minutes", type=float, help="stop then; the next run goes on")
    parser.add_argument("--shard", default=default.shard, help="'i/n': every n-th context, to run n side by side")
    parser.add_argument(
        "--synthetic", action="store_true", help="draft with the target's own early exit, before a head exists"
    )
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--verifiers", nargs="+", default=default.verifiers, help="in the printed table")
    add_loading_flags(parser)
    return CompareConfig(**vars(parser.parse_args(argv)))


def chosen_contexts(config: CompareConfig) -> list[Context]:
    """Contexts of the wanted kind and shard, sources and temperatures in turn."""
    contexts = [c for c in read_contexts(Path(config.contexts)) if (c.source == HELD_OUT) == config.held_out]
    if not contexts:
        kind = "held-out" if config.held_out else "benchmark"
        raise FileNotFoundError(f"no {kind} contexts in {config.contexts}: run `eagle-hsd trees record`")
    ranks: dict[tuple[str, float], int] = {}
    ranked: list[tuple[int, int, Context]] = []
    for context in contexts:
        group = context.source, context.temperature
        ranks[group] = ranks.get(group, -1) + 1
        ranked.append((ranks[group], len(ranked), context))
    index, count = config.part
    return [context for *_, context in sorted(ranked)][: config.max_contexts][index::count]


def target_and_draft(config: CompareConfig) -> tuple[Target, DraftSource]:
    target = load_target(config.target, **loading_options(config))
    if config.synthetic:
        return target, EarlyExit(target)
    return target, HeadSource(load_head(config.head, target), target)


def plan_directory(config: CompareConfig, source: DraftSource, target: Target, plan: Plan) -> Path:
    """Where the rows of this plan go: another head, as other arms, gets a directory of its own.

    It is found by the weights again, also when the head was renamed.
    """
    name, weights = "synthetic", weights_digest(target.model)
    if isinstance(source, HeadSource):
        name, weights = Path(config.head or "shipped").resolve().name, head_fingerprint(source.head)
    ending = f"{weights}-{'held-out' if config.held_out else 'benchmarks'}-{plan.name}"
    return next(iter(sorted(Path(config.output).glob(f"*-{ending}"))), Path(config.output) / f"{name}-{ending}")


def planned_arms(arms: tuple[TreeArm, ...], source: DraftSource) -> tuple[TreeArm, ...]:
    """Arms with the numbers of the head where they leave them open, as `auto` does."""
    if not isinstance(source, HeadSource):
        return arms
    return tuple(replace(arm, policy=plan_tree(arm.policy, source.target, source.head)) for arm in arms)


def measure_contexts(config: CompareConfig, target: Target, source: DraftSource, plan: Plan, directory: Path) -> None:
    """Rows of what is missing, as far as the minutes reach."""
    start = time.monotonic()
    rows_path = directory / f"rows-{config.shard_name}.jsonl"
    contexts = chosen_contexts(config)
    check_vocabulary(contexts, target)
    for left, context in run(target, source, contexts, plan, rows_path):
        elapsed_s = time.monotonic() - start
        print(f"{elapsed_s:6.0f} s  {context.id}, {left} contexts left", flush=True)
        if config.minutes and elapsed_s > 60 * config.minutes:
            return


def report_trees(config: CompareConfig, directory: Path) -> None:
    """Print and draw everything that has been measured in the directory. Raises FileNotFoundError where nothing was."""
    rows = read_rows(sorted(directory.glob("rows-*.jsonl")), read_contexts(Path(config.contexts)))
    table = list(tree_cells(rows))
    if not table:
        raise FileNotFoundError(
            f"nothing has been measured in {directory}: run without --report-only, on more contexts"
        )
    write_csv(table, directory / "table.csv")
    for source in sorted({cell.source for cell in table}):
        print(f"\n{source}" + (" (synthetic draft: not a result)" if config.synthetic else ""))
        print("\n".join(lines(table, source, config.verifiers)))
    source = HELD_OUT if config.held_out else ALL
    plot(table, source, directory / "tau.png")
    print(f"\n{directory / 'table.csv'}, {directory / 'tau.png'}")


def main(argv: Sequence[str] | None = None) -> None:
    config = compare_flags(argv)
    arms = read_arms(Path(config.arms), config.budgets)
    Path(config.output).mkdir(parents=True, exist_ok=True)  # what cannot be one is refused before anything is loaded
    if not config.report_only:
        chosen_contexts(config)
    target, source = target_and_draft(config)
    plan = Plan(planned_arms(arms, source), config.samplings, num_draws=config.num_draws, seed=config.seed)
    directory = plan_directory(config, source, target, plan)
    if not config.report_only:
        with only_writer(directory / f"writer-{config.shard_name}"):
            remove_leftovers(directory)
            measure_contexts(config, target, source, plan, directory)
    report_trees(config, directory)
