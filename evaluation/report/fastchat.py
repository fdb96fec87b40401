"""MT-Bench answers in FastChat's layout, for `fastchat.llm_judge` to judge."""

import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle.files import JsonLines
from evaluation.rows import AnswerRow, Key

FOLDER = "fastchat/mt_bench/model_answer"
NUM_TURNS = 2


def write_answers(rows: Mapping[Key, AnswerRow], folder: Path, target_name: str) -> list[Path]:
    """One file an arm and temperature, a choice a seed; questions whose turns are not all there are left out."""
    arms: dict[str, dict[str, list[AnswerRow]]] = {}
    for key, row in rows.items():
        if key.task == "mt_bench":
            model_id = _file_name(f"{target_name}-{key.arm}-t{key.temperature:g}")
            arms.setdefault(model_id, {}).setdefault(key.question, []).append(row)
    return [_write(folder / FOLDER, model_id, questions) for model_id, questions in sorted(arms.items())]


def _write(folder: Path, model_id: str, questions: Mapping[str, list[AnswerRow]]) -> Path:
    file = folder / f"{model_id}.jsonl"
    answers = [_answer(model_id, question, rows) for question, rows in questions.items()]
    JsonLines(file).replace(answer for answer in sorted(answers, key=_by_question) if answer["choices"])
    return file


def _answer(model_id: str, question: str, rows: list[AnswerRow]) -> dict[str, Any]:
    choices: list[dict[str, Any]] = []
    for seed in sorted({row.key.seed for row in rows}):
        turns = sorted((row for row in rows if row.key.seed == seed), key=lambda row: row.key.turn)
        if len(turns) == NUM_TURNS:
            choices.append({"index": len(choices), "turns": [row.text for row in turns]})
    return {
        "question_id": int(question) if question.isdigit() else question,
        "answer_id": hashlib.sha256(f"{model_id}/{question}".encode()).hexdigest()[:22],
        "model_id": model_id,
        "choices": choices,
        "tstamp": time.time(),
    }


def _by_question(answer: dict[str, Any]) -> tuple[bool, Any]:
    return isinstance(answer["question_id"], str), answer["question_id"]


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+=-]+", "-", text)
