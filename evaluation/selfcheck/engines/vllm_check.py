"""The checks of vLLM in its own processes: texts at temperature 0, laws above it, what the plug-in accepts, seeds."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from eagle.engine.target import Target
from eagle.sampling import Sampling
from evaluation.selfcheck.engines.asked import Answered, Asked, EngineSetup
from evaluation.selfcheck.engines.engine_processes import ask
from evaluation.selfcheck.engines.findings import Findings
from evaluation.selfcheck.engines.path_law import PathLaw, count

GREEDY_TOKENS, PATH_TOKENS, SAMPLED_TOKENS = 48, 6, 64
WHOLE, CUT = Sampling(1.0), Sampling(0.8, top_k=20, top_p=0.9)
NUM_WHOLE, NUM_CUT = 240, 100  # texts by each; a batch with one cut row sorts every row's vocabulary, which is slow
NUM_ALONE = 2  # seeded requests that are asked alone as well
FALSE_ALARM = 1e-6  # of one chi-square test of an engine that is right
STANDARD_ERRORS = 5  # of seen tau around its expectation: one false alarm in two million
Rows = list[tuple[Asked, tuple[int, ...]]]  # with the text that came


@dataclass(frozen=True)
class Material:
    """What every setup is asked, and what is right."""

    prompts: Sequence[tuple[int, ...]]
    greedy: Sequence[tuple[int, ...]]  # our texts at temperature 0
    law: PathLaw
    first_seed: int = 0  # of the seeded requests

    @classmethod
    def of(
        cls, target: Target, prompts: Sequence[tuple[int, ...]], greedy: Sequence[tuple[int, ...]], first_seed: int = 0
    ) -> "Material":
        """The path with the most to be counted is taken, of the prompts that fit into few blocks."""
        short = [(p, t[:PATH_TOKENS]) for p, t in zip(prompts, greedy, strict=True) if len(p) < 200]
        laws = [PathLaw.of(target, prompt, path) for prompt, path in short]
        return cls(prompts, greedy, max(laws, key=lambda law: law.told(WHOLE)), first_seed)

    def greedy_batch(self) -> list[Asked]:
        return [Asked(prompt, GREEDY_TOKENS) for prompt in self.prompts]

    def law_batches(self, is_cut: bool) -> list[list[Asked]]:
        """Texts of the whole law; where `is_cut`, both ways to sample side by side as well."""
        whole = self._by_turns([WHOLE], range(NUM_WHOLE))
        return [whole, self._by_turns([WHOLE, CUT], range(NUM_WHOLE, NUM_WHOLE + NUM_CUT))] if is_cut else [whole]

    def _by_turns(self, samplings: Sequence[Sampling], turns: range) -> list[Asked]:
        """Every other time with a seed of its own, a greedy request at times: rows of one batch."""
        asked = []
        for turn in turns:
            for sampling in samplings:
                request = Asked(self.law.prompt, PATH_TOKENS, sampling.temperature, sampling.top_k, sampling.top_p)
                asked.append(replace(request, seed=self.first_seed + turn if turn % 2 else None))
            if turn % 10 == 0:
                asked.append(Asked(self.law.prompt, PATH_TOKENS))
        return asked

    def sampled_batch(self) -> list[Asked]:
        seeds = range(self.first_seed, self.first_seed + len(self.prompts))
        return [Asked(prompt, SAMPLED_TOKENS, 1.0, seed=seed) for seed, prompt in zip(seeds, self.prompts, strict=True)]


def check_texts(setup: EngineSetup, material: Material, findings: Findings, directory: Path) -> None:
    """Texts at temperature 0 alone."""
    (answered,) = ask(setup, [material.greedy_batch()], directory)
    _greedy(setup, material, answered, findings)


def check_all(setup: EngineSetup, material: Material, findings: Findings, directory: Path, is_right: bool) -> None:
    """Texts, laws, acceptance and seeds.

    is_right False: what is known to be wrong is only told, and not asked for what would end the engine (top-k, vllm
    #55005: an index read from memory that nobody wrote).
    """
    shutil.rmtree(directory / "tau" / setup.name, ignore_errors=True)
    laws, alone = material.law_batches(is_cut=is_right), material.sampled_batch()[:NUM_ALONE]
    batches = [material.greedy_batch(), material.sampled_batch(), *([one] for one in alone), *laws]
    greedy, sampled, *others = ask(setup, batches, directory)
    _greedy(setup, material, greedy, findings)
    _laws(setup, material, _rows(laws, others[NUM_ALONE:]), findings, is_right)
    findings.add(f"{setup.name}: tau at temperature 1", None, f"{sampled.tau:.2f} by the engine's count")
    if is_right:
        _tau(setup, directory, findings)
        same = sum(one.texts[0] == among for one, among in zip(others[:NUM_ALONE], sampled.texts, strict=False))
        told = f"{same} of {NUM_ALONE} texts are the same alone and among {len(sampled.texts)}"
        findings.add(f"{setup.name}: seeds", same == NUM_ALONE, told)


def _greedy(setup: EngineSetup, material: Material, answered: Answered, findings: Findings) -> None:
    equal = sum(ours == theirs for ours, theirs in zip(material.greedy, answered.texts, strict=True))
    found = f"{equal} of {len(answered.texts)} texts are ours, tau {answered.tau:.2f}"
    findings.add(f"{setup.name}: temperature 0, float32", equal == len(answered.texts), found)


def _laws(setup: EngineSetup, material: Material, rows: Rows, findings: Findings, is_right: bool) -> None:
    """Each way to sample by itself, and what greedy requests got beside them."""
    for sampling in (WHOLE, CUT):
        if texts := _at(sampling, rows):
            counted = count(material.law, sampling, texts)
            name = f"{setup.name}: law at T {sampling.temperature:g}, top-k {sampling.top_k}, top-p {sampling.top_p:g}"
            findings.add(name, counted.p_value > FALSE_ALARM if is_right else None, str(counted))
    beside = _at(Sampling(), rows)
    equal = sum(text == material.law.path for text in beside)
    found = f"{equal} of {len(beside)} texts are ours"
    findings.add(f"{setup.name}: greedy beside sampled", equal == len(beside) if is_right else None, found)


def _rows(batches: Sequence[Sequence[Asked]], answers: Sequence[Answered]) -> Rows:
    pairs = (zip(batch, answer.texts, strict=True) for batch, answer in zip(batches, answers, strict=True))
    return list(chain.from_iterable(pairs))


def _at(sampling: Sampling, rows: Rows) -> list[tuple[int, ...]]:
    """Texts of the requests at this temperature."""
    return [text for asked, text in rows if asked.temperature == sampling.temperature]


def _tau(setup: EngineSetup, directory: Path, findings: Findings) -> None:
    """The plug-in's record of all its sampled rounds: seen, and expected of both rules on these rounds."""
    (file,) = (directory / "tau" / setup.name).glob("tau-*.json")
    seen = json.loads(file.read_text(encoding="utf-8"))
    rule, expected, errors = seen["verifier"], seen["expected_tau"], seen["standard_error"]
    away = (seen["tau"] - expected[rule]) / errors[rule]
    found = f"{seen['tau']:.3f} seen, {expected[rule]:.3f} expected, {away:+.1f} standard errors"
    findings.add(f"{setup.name}: tau, {seen['rounds']} rounds", abs(away) < STANDARD_ERRORS, found)
    gain = f"token-wise {expected['tokenwise']:.3f}, hsd {expected['hsd']:.3f}"
    findings.add(f"{setup.name}: exact tau of both rules", expected["hsd"] >= expected["tokenwise"] - 1e-9, gain)
