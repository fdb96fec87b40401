"""Rows -> `summary.json`: a flat row of numbers with intervals for every task, arm and temperature."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eagle.bootstrap import Array, Interval, Resamples, interval, survival
from eagle.seeds import stable_number
from evaluation.arms import BASELINE, PEER_BASELINE, drafting_spec, split_spec
from evaluation.eval_config import EvalConfig
from evaluation.expected import GREEDY
from evaluation.recording import PHASES
from evaluation.report import cells
from evaluation.report.cells import Cell
from evaluation.rows import AnswerRow, Key

MEAN = "mean of tasks"
FIELDS = (
    "task", "arm", "temperature", "num_questions", "num_seeds", "rounds", "tokens", "tau", "tau_low", "tau_high",
    "tau_exact", "tau_bound", "block_efficiency", "tokens_per_s", "speedup", "speedup_low", "speedup_high", "accuracy",
)  # fmt: skip
SHARES = (*PHASES, "rest")
STALLED = 3.0


class CellKey(NamedTuple):
    task: str
    arm: str
    temperature: float


Cells = dict[CellKey, Cell]
Result = dict[str, Any]


def make_cells(rows: Mapping[Key, AnswerRow], num_resamples: int) -> Cells:
    """Group the rows; all arms of a task share its questions and resamples, at every temperature."""
    grouped: dict[CellKey, list[AnswerRow]] = {}
    for row in rows.values():
        grouped.setdefault(CellKey(row.key.task, row.key.arm, row.key.temperature), []).append(row)
    questions = {task: sorted({k.question for k in rows if k.task == task}) for task in {k.task for k in rows}}
    resamples = {
        task: Resamples(len(names), num_resamples, seed=stable_number("resamples", task))
        for task, names in questions.items()
    }
    return {key: Cell(group, questions[key.task], resamples[key.task]) for key, group in grouped.items()}


def summarise(rows: Mapping[Key, AnswerRow], config: EvalConfig) -> dict[str, list[Result]]:
    """`results`, one row of numbers a cell and one for the mean of the tasks, and `comparisons` between arms."""
    table = make_cells(rows, config.resamples)
    ordered = _in_order(table, config)
    samples = {key: _samples(key, table, config) for key in ordered}
    results = [_result(key, table, samples[key], config) for key in ordered]
    return {"results": results + _means(samples), "comparisons": _comparisons(table, ordered)}


def _in_order(table: Cells, config: EvalConfig) -> list[CellKey]:
    wanted = [CellKey(t, m, float(temp)) for t in config.tasks for temp in config.temperatures for m in config.arms]
    return [key for key in wanted if key in table]


def _samples(key: CellKey, table: Cells, config: EvalConfig) -> dict[str, Array]:
    """Everything that gets an interval, as bootstrap samples (B + 1,)."""
    cell = table[key]
    samples = {
        "tau": cells.tau(cell),
        "tau_per_question": cell.mean_over_questions(cells.num_accepted, cells.num_rounds),
        "tau_exact": _exact(cell, own_verifier(key, config)),
        "tau_bound": _bound(cell),
        "block_efficiency": cell.ratio(cells.num_decoded, cells.num_rounds),
        "tokens_per_s": cells.tokens_per_s(cell),
        "tokens_per_s_total": cells.total_tokens_per_s(cell),
        "prefill_s": cell.ratio(cells.prefill_s, cells.one),
        "accuracy": cell.ratio(lambda row: row.correct, lambda row: row.correct is not None),
    }
    samples |= {f"{phase}_share": _share(cell, phase) for phase in SHARES}
    return samples | _speedups(key, table)


def _speedups(key: CellKey, table: Cells) -> dict[str, Array]:
    speeds = {}
    for name, arm in (("speedup", BASELINE), (f"speedup_{PEER_BASELINE}", PEER_BASELINE)):
        base = table.get(key._replace(arm=arm))
        if base is not None:
            speeds[name] = cells.speedup(table[key], base)
            speeds[f"{name}_total"] = cells.speedup(table[key], base, cells.total_tokens_per_s)
    return speeds


def own_verifier(key: CellKey, config: EvalConfig) -> str | None:
    """The verifier an arm decides with; at temperature 0 all of them are the greedy one."""
    spec = drafting_spec(key.arm, config)
    return None if spec is None else GREEDY if key.temperature == 0 else split_spec(spec)[1]


def _exact(cell: Cell, verifier: str | None) -> Array:
    """Expected accepted tokens a round on the recorded trees; NaN unless the verifier applied to all of them."""
    known = [row.generation.exact for row in cell.rows if row.generation.exact]
    if verifier is None or not known or not all(verifier in exact for exact in known):
        return np.full(len(cell.resamples.weights), np.nan)
    return cell.ratio(lambda row: row.generation.exact.get(verifier), cells.num_rounds)


def _bound(cell: Cell) -> Array:
    drafted = [row for row in cell.rows if row.generation.shapes]
    if not drafted or any(row.generation.bound is None for row in drafted):
        return np.full(len(cell.resamples.weights), np.nan)
    return cell.ratio(lambda row: row.generation.bound, cells.num_rounds)


def _share(cell: Cell, phase: str) -> Array:
    """Share of decoding time, NaN for peers that do not tell."""
    if any(row.generation.seconds.rest is None for row in cell.rows):
        return np.full(len(cell.resamples.weights), np.nan)
    return cell.ratio(lambda row: getattr(row.generation.seconds, phase), cells.decode_s)


def _result(key: CellKey, table: Cells, samples: dict[str, Array], config: EvalConfig) -> Result:
    cell = table[key]
    accepted = [a for row in cell.rows for a in row.generation.accepted]
    survivals = survival(accepted)
    _check_survival(survivals, float(samples["tau"][0]))
    return {
        **dict.fromkeys(FIELDS),
        **key._asdict(),
        "num_questions": len({row.key.question for row in cell.rows}),
        "num_seeds": len({row.key.seed for row in cell.rows}),
        "num_answers": len(cell.rows),
        "rounds": len(accepted),
        "tokens": sum(len(row.generation.tokens) for row in cell.rows),
        **_spread_all(samples),
        **_identical(key, table),
        "tau_exact_by_verifier": _exact_by_verifier(cell),
        **_by_depth(cell, len(survivals)),
        "mean_tree_nodes": _mean([shape.num_nodes for row in cell.rows for shape in row.generation.shapes]),
        "capped": sum(row.capped for row in cell.rows),
        "degenerate": sum(row.degenerate for row in cell.rows),
        "stalled": _num_stalled(key, table),
        "without_flagged": _without_flagged(key, table, config),
    }


def _identical(key: CellKey, table: Cells) -> Result:
    """How many of the answers behind the speed-up are the baseline's own, token for token."""
    base = table.get(key._replace(arm=BASELINE))
    if base is None or key.arm == BASELINE:
        return {}
    shared = len(table[key].answers & base.answers)
    return {"speedup_answers": shared, "speedup_identical": cells.num_identical(table[key], base)}


def _check_survival(survivals: list[float], tau: float) -> None:
    """The self-check of the counting: tau as a mean of counts equals tau as a sum over depths."""
    if np.isfinite(tau) and abs(sum(survivals) - tau) > 1e-9:
        raise ValueError(f"sum of survivals is {sum(survivals)}, tau is {tau}: rounds are counted in two ways")


def _exact_by_verifier(cell: Cell) -> dict[str, float]:
    names = {name for row in cell.rows for name in row.generation.exact}
    values = {name: interval(_exact(cell, name)).value for name in sorted(names)}
    return {name: value for name, value in values.items() if value is not None}


def _by_depth(cell: Cell, depth: int) -> dict[str, list[float | None]]:
    """Lists by depth, from 1: S_i, and the share of rounds that accepted i - 1 tokens which accepted the i-th too."""
    bands = {
        "survival": [interval(cell.ratio(_at_least(i), cells.num_rounds)) for i in range(1, depth + 1)],
        "acceptance_by_depth": [interval(cell.ratio(_at_least(i), _at_least(i - 1))) for i in range(1, depth + 1)],
    }
    return {
        name + ending: [getattr(band, field) for band in found]
        for name, found in bands.items()
        for ending, field in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _at_least(count: int) -> Callable[[AnswerRow], float]:
    return lambda row: sum(accepted >= count for accepted in row.generation.accepted)


def _num_stalled(key: CellKey, table: Cells) -> int:
    """Answers whose passes took over three times as long as the arm's fastest anywhere: the machine was busy."""
    passes = [seconds for k, cell in table.items() if k.arm == key.arm for seconds in cell.seconds_per_pass]
    return sum(seconds > STALLED * min(passes) for seconds in table[key].seconds_per_pass)


def _without_flagged(key: CellKey, table: Cells, config: EvalConfig) -> Result:
    """The headline numbers on answers that are neither capped nor degenerate."""
    base = table.get(key._replace(arm=BASELINE))
    cell = table[key].only(table[key].unflagged())
    numbers = {"tau": cells.tau(cell), "tokens_per_s": cells.tokens_per_s(cell)}
    numbers["accuracy"] = cell.ratio(lambda row: row.correct, lambda row: row.correct is not None)
    if base is not None:
        numbers["speedup"] = cells.speedup(cell, base.only(base.unflagged()))
    return {"num_answers": len(cell.rows), **_spread_all(numbers)}


def _means(samples: dict[CellKey, dict[str, Array]]) -> list[Result]:
    """The plain mean over tasks, where every task has the arm. Tasks are resampled independently."""
    tasks = {key.task for key in samples}
    arms = dict.fromkeys((key.arm, key.temperature) for key in samples)
    results = []
    for arm, temperature in arms if len(tasks) > 1 else ():
        parts = [sample for key, sample in samples.items() if (key.arm, key.temperature) == (arm, temperature)]
        names = [name for name in parts[0] if all(name in part for part in parts)]
        if len(parts) == len(tasks):
            means = {name: np.mean([part[name] for part in parts], axis=0) for name in names if name != "accuracy"}
            key = CellKey(MEAN, arm, temperature)
            results.append({**dict.fromkeys(FIELDS), **key._asdict(), **_spread_all(means)})
    return results


def _comparisons(table: Cells, ordered: Sequence[CellKey]) -> list[Result]:
    """Every two arms that draft, on the same questions: difference in tau and ratio of speeds."""
    drafting = [key for key in ordered if key.arm not in (BASELINE, PEER_BASELINE)]
    return [
        _compare(key, other, table)
        for i, other in enumerate(drafting)
        for key in drafting[i + 1 :]
        if key._replace(arm="") == other._replace(arm="")
    ]


def _compare(key: CellKey, other: CellKey, table: Cells) -> Result:
    shared = table[key].answers & table[other].answers
    cell, base = table[key].only(shared), table[other].only(shared)
    numbers = {"tau_difference": cells.tau(cell) - cells.tau(base), "speed_ratio": cells.speedup(cell, base)}
    counts = {"num_answers": len(shared), "num_identical": cells.num_identical(cell, base)}
    return {**key._asdict(), "against": other.arm, **counts, **_spread_all(numbers)}


def _spread_all(samples: dict[str, Array]) -> Result:
    return {name: number for key, sample in samples.items() for name, number in _spread(key, interval(sample)).items()}


def _spread(name: str, found: Interval) -> Result:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
