"""Rows made up from numbers, for statistics and reports whose right answers are known."""

import random
from collections.abc import Sequence

from evaluation.recording import Generation, Seconds, TreeShape
from evaluation.rows import AnswerRow, Key


def synthetic_row(
    accepted: Sequence[int],
    decode_s: float = 1.0,
    task: str = "gsm8k",
    question: str = "q0",
    turn: int = 0,
    arm: str = "hsd",
    temperature: float = 1.0,
    seed: int = 0,
    finish: str = "stop",
    correct: bool | None = None,
    degenerate: bool = False,
    exact: dict[str, float] | None = None,
    bound: float | None = None,
    text: str = "text",
    prompt: Sequence[int] = (1, 2),
    tokens: Sequence[int] | None = None,
    coupled: bool = False,
) -> AnswerRow:
    """A row whose rounds accepted the given numbers of tokens and added one more each."""
    emitted = [count + 1 for count in accepted]
    drafts = any(accepted)
    generation = Generation(
        tokens=tuple(tokens if tokens is not None else range(3, 4 + sum(emitted))),
        num_first=1,
        accepted=tuple(accepted),
        emitted=tuple(emitted),
        finish=finish,
        seconds=Seconds(0.1, decode_s, 0.2 * decode_s if drafts else 0.0, 0.7 * decode_s, 0.02 * decode_s),
        shapes=tuple(TreeShape(10, 5, 0) for _ in accepted) if drafts else (),
        exact=exact or {},
        bound=bound,
        coupled=coupled,
    )
    key = Key(task, question, turn, arm, temperature, seed)
    return AnswerRow(key, 0, tuple(prompt), generation, text, correct, degenerate, "config", {"torch": "0"})


def synthetic_run(tasks=("mt_bench", "gsm8k", "humaneval"), num_questions=30, num_seeds=3) -> dict[Key, AnswerRow]:
    """A run that looks like a real one: plain decoding, two arms that draft, and a peer, with noise."""
    chance, rows = random.Random(0), []
    speeds = {"autoregressive": 22.0, "hf_generate": 20.0, "eagle3": 17.0, "hsd": 17.0}
    for task in tasks:
        for question in range(num_questions):
            ease = chance.uniform(0.4, 0.75)
            for temperature in (0.0, 1.0):
                for seed in range(num_seeds if temperature else 1):
                    for arm, passes_per_s in speeds.items():
                        drafts = arm in ("eagle3", "hsd")
                        chance_now = ease - 0.08 * temperature + 0.03 * (arm == "hsd")
                        accepted = [_run(chance, chance_now) if drafts else 0 for _ in range(40)]
                        tau = chance_now * (1 - chance_now**5) / (1 - chance_now)
                        verifier = "greedy" if temperature == 0 else "walk" if arm == "eagle3" else "hsd"
                        rows.append(
                            synthetic_row(
                                accepted,
                                decode_s=len(accepted) / passes_per_s * chance.uniform(0.97, 1.03),
                                task=task,
                                question=f"q{question}",
                                arm=arm,
                                temperature=temperature,
                                seed=seed,
                                finish=chance.choice(["stop", "stop", "length"]),
                                correct=None if task == "mt_bench" else chance.random() < 0.3,
                                exact={verifier: 40 * tau, "tokenwise": 38 * tau} if drafts else None,
                                bound=40 * tau if arm == "eagle3" else None,
                            )
                        )
    return {row.key: row for row in rows}


def _run(chance: random.Random, probability: float, longest: int = 5) -> int:
    length = 0
    while length < longest and chance.random() < probability:
        length += 1
    return length
