"""`report.html`: one page that stands alone, made from the summary."""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eagle.bootstrap import LEVEL
from eagle.files import write_text
from evaluation.arms import BASELINE, PEER_BASELINE
from evaluation.report.charts import colours, draw_plots
from evaluation.report.page import PAGE
from evaluation.report.summary import MEAN, SHARES, Result
from evaluation.report.table import PEER_SPEEDUP, number, percent, spread, width

PLOTS, REPORT = "plots", "report.html"
CAPTIONS = {
    "tau": "Accepted draft tokens per round, without the token the verifier adds.",
    "speedup": "Decoding speed against plain decoding, question by question.",
    "survival": "How deep rounds go: the share of rounds that accept at least 1, 2, 3 … tokens. The area is tau.",
    "shares": "Where decoding time goes. Rest is everything outside the three phases.",
}


def write_report(summary: dict[str, Any], folder: Path) -> Path:
    """Draw the plots beside the page, put them into it too, and return the page's path."""
    files = draw_plots(summary, folder / PLOTS)
    page = PAGE.format(
        title=html.escape(f"Speculative decoding of {summary['conditions']['target_name']}"),
        subtitle=_subtitle(summary),
        warning=_warning(summary["results"]),
        cards=_cards(summary["results"]),
        plots="".join(_figure(file, CAPTIONS[name]) for name, file in files.items()),
        results=_results(summary["results"]),
        times=_times(summary["results"]),
        exact=_exact(summary["results"]),
        comparisons=_comparisons(summary["comparisons"]),
        equality=_equality(summary["equality"]),
        flagged=_flagged(summary["results"]),
        self_check=_self_check(summary["self_check"]),
        conditions=_conditions(summary["conditions"]),
        level=f"{LEVEL:.0%}",
    )
    path = folder / REPORT
    write_text(path, page)
    return path


def _subtitle(summary: dict[str, Any]) -> str:
    of = summary["conditions"]
    cells = [r for r in summary["results"] if r["task"] != MEAN]
    questions = {r["task"]: r["num_questions"] for r in cells}
    counts = ", ".join(f"{task} {count}" for task, count in questions.items())
    return html.escape(
        f"questions: {counts} · at most {of['options']['max_new_tokens']} tokens · {of['machine']} · {of['dtype']}"
    )


def _warning(results: Sequence[Result]) -> str:
    stalled = sum(r.get("stalled") or 0 for r in results)
    if not stalled:
        return ""
    return (
        f'<p class="warning">{stalled} answers were stalled by other work on this machine: do not trust the speeds.</p>'
    )


def _cards(results: Sequence[Result]) -> str:
    """The drafting arm with the best speed at each temperature, on the mean of the tasks where there are several."""
    pool = [r for r in results if r["task"] == MEAN] or list(results)
    cards = []
    for temperature in dict.fromkeys(r["temperature"] for r in pool):
        rivals = [r for r in pool if r["temperature"] == temperature and r.get("speedup") and r["arm"] != BASELINE]
        if rivals:
            cards.append(_card(max(rivals, key=lambda r: r["speedup"])))
    return "".join(cards)


def _card(row: Result) -> str:
    peer = f"{spread(row, PEER_SPEEDUP)} &times; {PEER_BASELINE}" if row.get(PEER_SPEEDUP) else ""
    details = [spread(row, "speedup").partition(" ")[2], peer, f"tau {number(row['tau'])}"]
    words = html.escape(f"{row['arm']} against plain decoding, temperature {row['temperature']:g}")
    return (
        f'<div class="card"><b>{number(row["speedup"])}&times;</b><span>{words}</span>'
        f"<small>{' · '.join(filter(None, details))}</small></div>"
    )


def _results(results: Sequence[Result]) -> str:
    headers = ("task", "T", "arm", "tau", "exact", "bound", "tokens/pass", "tokens/s")
    palette = colours([r["arm"] for r in results])
    rows = [
        (
            r["task"], f"{r['temperature']:g}", _chip(r["arm"], palette), spread(r, "tau"), number(r["tau_exact"]),
            number(r["tau_bound"]), number(r["block_efficiency"]), number(r["tokens_per_s"], 1), spread(r, "speedup"),
            width(r, "speedup"), _share_of(r.get("speedup_identical"), r.get("speedup_answers")),
            spread(r, PEER_SPEEDUP), percent(r["accuracy"]),
        )
        for r in results
    ]  # fmt: skip
    pair = (f"x {BASELINE}", "width", "identical answers")
    return _table((*headers, *pair, f"x {PEER_BASELINE}", "accuracy"), rows)


def _share_of(count: int | None, whole: int | None) -> str:
    return "" if count is None else f"{count} of {whole}"


def _times(results: Sequence[Result]) -> str:
    headers = ("task", "T", "arm", *SHARES, "first token, s", "tokens/s, all time", f"x {BASELINE}, all time")
    rows = [
        (
            r["task"], f"{r['temperature']:g}", html.escape(r["arm"]),
            *(percent(r.get(f"{phase}_share"), 1) for phase in SHARES), number(r["prefill_s"]),
            number(r["tokens_per_s_total"], 1), spread(r, "speedup_total"),
        )
        for r in results
    ]  # fmt: skip
    return _table(headers, rows)


def _exact(results: Sequence[Result]) -> str:
    cells = [r for r in results if len(r.get("tau_exact_by_verifier") or {}) > 1]
    names = sorted({name for r in cells for name in r["tau_exact_by_verifier"]})
    rows = [
        (r["task"], f"{r['temperature']:g}", html.escape(r["arm"]), number(r["tau_bound"], 3))
        + tuple(number(r["tau_exact_by_verifier"].get(name), 3) for name in names)
        for r in cells
    ]
    return _table(("task", "T", "trees of", "bound", *names), rows)


def _comparisons(comparisons: Sequence[Result]) -> str:
    rows = [
        (
            r["task"], f"{r['temperature']:g}", html.escape(f"{r['arm']} - {r['against']}"),
            spread(r, "tau_difference"), spread(r, "speed_ratio"), width(r, "speed_ratio"),
            _share_of(r["num_identical"], r["num_answers"]),
        )
        for r in comparisons
    ]  # fmt: skip
    return _table(("task", "T", "arms", "difference in tau", "ratio of tokens/s", "width", "identical answers"), rows)


def _equality(equality: Sequence[Result]) -> str:
    rows = [
        (
            r["task"], f"{r['temperature']:g}", html.escape(r["arm"]), _share_of(r["equal"], r["compared"]),
            number(r["first_difference"], 0), number(r["median_gap"], 3), number(r["largest_gap"], 3),
            r["other_draws"] or "",
        )
        for r in equality
    ]  # fmt: skip
    gaps = ("first difference at token", "median gap", "largest gap")
    return _table(("task", "T", "arm", "equal to plain decoding", *gaps, "not compared"), rows)


def _flagged(results: Sequence[Result]) -> str:
    rows = [
        (
            r["task"], f"{r['temperature']:g}", html.escape(r["arm"]), r["num_answers"], r["capped"],
            r["degenerate"], r["stalled"], spread(r, "tau"), spread(r["without_flagged"], "tau"), spread(r, "speedup"),
            spread(r["without_flagged"], "speedup"), r["without_flagged"]["num_answers"],
        )
        for r in results
        if r.get("without_flagged")
    ]  # fmt: skip
    headers = ("task", "T", "arm", "answers", "capped", "degenerate", "stalled", "tau", "tau without")
    return _table((*headers, "speed-up", "speed-up without", "answers left"), rows)


def _self_check(checks: Sequence[Result]) -> str:
    if not checks:
        return "<p>Not run: start with <code>--verify-lossless</code>.</p>"
    words = {True: "lossless", False: "FAILED", None: "undecided"}
    rows = [
        (html.escape(c["drafting"]), f"{c['temperature']:g}", c["name"], words[c["passed"]], html.escape(c["finding"]))
        for c in checks
    ]
    return _table(("drafting + verifier", "T", "check", "verdict", "finding"), rows)


def _conditions(conditions: Result) -> str:
    plain = {name: value for name, value in conditions.items() if name != "options"}
    rows = [(html.escape(name), f"<code>{html.escape(str(value))}</code>") for name, value in plain.items()]
    options = html.escape(json.dumps(conditions["options"], indent=2))
    return _table(("", ""), rows) + f"<details><summary>all options</summary><pre>{options}</pre></details>"


def _figure(file: Path, caption: str) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _chip(arm: str, palette: Mapping[str, str]) -> str:
    return f'<i style="background:{palette[arm]}"></i>{html.escape(arm)}'


def _table(headers: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    if not body:
        return "<p>Nothing to show.</p>"
    head = "".join(f"<th>{html.escape(header)}</th>" for header in headers)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
