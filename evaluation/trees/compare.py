"""Compare draft trees on recorded contexts by the exact expected number of accepted tokens: table, CSV and plot.

eagle-hsd trees record && eagle-hsd trees compare         # benchmarks, the shipped head
eagle-hsd trees compare --held-out --arms configs/trees/tuning.yaml
eagle-hsd trees compare --shard 0/2 & eagle-hsd trees compare --shard 1/2 & wait
eagle-hsd trees compare --report-only                     # the table of what has been measured
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eagle.checkpoints.flat import head_fingerprint
from eagle.engine.target import Target
from eagle.loading import load_head, load_target
from eagle.options import CommandParser
from eagle.planner import plan as plan_tree
from evaluation.trees.comparison import ALL, lines, plot, tree_cells, write_csv
from evaluation.trees.contexts import HELD_OUT, Context, read_contexts
from evaluation.trees.early_exit import EarlyExit
from evaluation.trees.laboratory import SAMPLINGS, Plan, TreeArm, read_arms, read_rows, run
from evaluation.trees.shared import DraftSource, HeadSource

DEFAULT_ARMS = Path(__file__).parents[2] / "configs/trees/laboratory.yaml"


def compare_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    default = Plan(())
    parser = CommandParser(__doc__)
    parser.add_argument("--target", help="Hugging Face id, directory or GGUF file (default: the embedded SmolLM2)")
    parser.add_argument("--head", help="directory or Hugging Face id of a draft head (default: the shipped one)")
    parser.add_argument("--contexts", type=Path, default=Path("runs/laboratory/contexts.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("runs/laboratory"), help="a directory below it a plan")
    parser.add_argument("--arms", type=Path, default=DEFAULT_ARMS, help="YAML file of the trees to compare")
    parser.add_argument("--budgets", type=int, nargs="+", help="node budgets (default: those of the file)")
    parser.add_argument("--samplings", nargs="+", choices=SAMPLINGS, default=default.samplings)
    parser.add_argument("--num-draws", type=int, default=default.num_draws, help="trees of a policy that draws")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--held-out", action="store_true", help="held-out prompts, to tune on, not the benchmarks")
    parser.add_argument("--max-contexts", type=int, help="the first of a fixed shuffle")
    parser.add_argument("--minutes", type=float, help="stop then; the next run goes on")
    parser.add_argument("--shard", default="0/1", help="'i/n': every n-th context, to run n processes side by side")
    parser.add_argument(
        "--synthetic", action="store_true", help="draft with the target's own early exit, before a head exists"
    )
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--verifiers", nargs="+", default=("walk", "hsd"), help="in the printed table")
    return parser.parse_args(argv)


def chosen_contexts(args: argparse.Namespace) -> list[Context]:
    """Contexts of the wanted kind and shard, sources and temperatures in turn."""
    contexts = [c for c in read_contexts(args.contexts) if (c.source == HELD_OUT) == args.held_out]
    if not contexts:
        raise FileNotFoundError(f"no contexts in {args.contexts}: run `eagle-hsd trees record`")
    ranks: dict[tuple[str, float], int] = {}
    ranked: list[tuple[int, int, Context]] = []
    for context in contexts:
        group = context.source, context.temperature
        ranks[group] = ranks.get(group, -1) + 1
        ranked.append((ranks[group], len(ranked), context))
    index, count = map(int, args.shard.split("/"))
    return [context for *_, context in sorted(ranked)][: args.max_contexts][index::count]


def target_and_draft(args: argparse.Namespace) -> tuple[Target, DraftSource]:
    target = load_target(args.target)
    if args.synthetic:
        return target, EarlyExit(target)
    return target, HeadSource(load_head(args.head, target), target)


def plan_directory(args: argparse.Namespace, source: DraftSource, plan: Plan) -> Path:
    """Where the rows of this plan go: another head, as other arms, gets a directory of its own."""
    draft = "synthetic"
    if isinstance(source, HeadSource):
        draft = f"{Path(args.head or 'shipped').name}-{head_fingerprint(source.head)}"
    return Path(args.output) / f"{draft}-{'held-out' if args.held_out else 'benchmarks'}-{plan.name}"


def planned_arms(arms: tuple[TreeArm, ...], source: DraftSource) -> tuple[TreeArm, ...]:
    """Arms with the numbers of the head where they leave them open, as `auto` does."""
    if not isinstance(source, HeadSource):
        return arms
    return tuple(replace(arm, policy=plan_tree(arm.policy, source.target, source.head)) for arm in arms)


def measure_contexts(
    args: argparse.Namespace, target: Target, source: DraftSource, plan: Plan, directory: Path
) -> None:
    """Rows of what is missing, as far as the minutes reach."""
    start = time.monotonic()
    rows_path = directory / f"rows-{args.shard.replace('/', '-of-')}.jsonl"
    for left, context in run(target, source, chosen_contexts(args), plan, rows_path):
        elapsed_s = time.monotonic() - start
        print(f"{elapsed_s:6.0f} s  {context.id}, {left} contexts left", flush=True)
        if args.minutes and elapsed_s > 60 * args.minutes:
            return


def report_trees(args: argparse.Namespace, directory: Path) -> None:
    """Print and draw everything that has been measured in the directory."""
    table = list(tree_cells(read_rows(sorted(directory.glob("rows-*.jsonl")))))
    write_csv(table, directory / "table.csv")
    for source in sorted({cell.source for cell in table}):
        print(f"\n{source}" + (" (synthetic draft: not a result)" if args.synthetic else ""))
        print("\n".join(lines(table, source, tuple(args.verifiers))))
    source = HELD_OUT if args.held_out else ALL
    plot(table, source, directory / "tau.png")
    print(f"\n{directory / 'table.csv'}, {directory / 'tau.png'}")


def main(argv: Sequence[str] | None = None) -> None:
    args = compare_flags(argv)
    target, source = target_and_draft(args)
    arms = planned_arms(read_arms(args.arms, args.budgets), source)
    plan = Plan(arms, tuple(args.samplings), num_draws=args.num_draws, seed=args.seed)
    directory = plan_directory(args, source, plan)
    if not args.report_only:
        measure_contexts(args, target, source, plan, directory)
    report_trees(args, directory)
