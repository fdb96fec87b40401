"""When the plug-in acts, what it refuses, what it records. vLLM is a stand-in of four functions."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from eagle.integrations.vllm import plugin
from eagle.integrations.vllm.chunked_prompts import keeping_seeds
from eagle.integrations.vllm.plugin import register
from eagle.integrations.vllm.rejection_step import RejectionStep
from eagle.integrations.vllm.seeded_drafts import seeded_drafts
from eagle.integrations.vllm.settings import HSD, OFF, TAU, TOKENWISE, VERIFIER, PluginSettings
from hsd_verify import law
from tests.integrations.vllm_metadata import Batch

ROOT = Path(__file__).parent.parent.parent
GROUP = "vllm.general_plugins"


class Runner:
    """Of four requests, all with seeds; of two the token is thrown away, since their prompts have more pieces."""

    def __init__(self, discarded: tuple[bool, ...] = (False, True, False, True, True)) -> None:
        generators = {row: torch.Generator().manual_seed(row) for row in range(4)}
        self.input_batch = SimpleNamespace(num_reqs=4, generators=generators)
        self.discard_request_mask = SimpleNamespace(np=np.array(discarded))

    def sample_tokens(self, *grammar: Any) -> list[int]:
        """Draws of every generator, and winds back those of discarded tokens as vLLM does."""
        if grammar == ("fails",):
            raise RuntimeError("of the model")
        for generator in self.input_batch.generators.values():
            torch.rand((), generator=generator)
        for row in self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0]:
            if (generator := self.input_batch.generators.get(int(row))) is not None:
                generator.set_offset(generator.get_offset() - 4)
        return [*self.input_batch.generators]


@pytest.fixture
def vllm(monkeypatch):
    """A vLLM of the known version whose four functions do nothing."""
    modules: list[Any] = [ModuleType(name) for name in ("vllm", plugin.SAMPLER, plugin.PROPOSER, plugin.MODEL_RUNNER)]
    engine, sampler, proposer, runner = modules
    runner.GPUModelRunner = Runner
    monkeypatch.setattr(Runner, "sample_tokens", Runner.sample_tokens)  # put back afterwards
    engine.__version__ = "0.32.0+cpu"
    sampler.rejection_sample, sampler.expand_batch_to_tokens, proposer.compute_probs_and_sample_next_token = [
        (lambda *args, **kwargs: None) for _ in range(3)
    ]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv(VERIFIER, HSD)
    monkeypatch.setenv(plugin.RUNNER, "0")
    return engine, sampler, proposer, runner


def test_the_entry_point_leads_to_the_plug_in():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"][GROUP]["eagle_hsd_vllm"].partition(":")
    assert getattr(import_module(module), name) is register


def test_nothing_happens_unless_it_is_asked_for():
    """Loaded in every vLLM of an environment that has this package: without a word no engine is touched or looked at.

    Neither are transformers and the rest of this package imported.
    """
    code = (
        "import sys; from eagle.integrations.vllm.plugin import register; register();"
        "print([m for m in sys.modules if m in ('vllm', 'transformers') or m.startswith(('eagle.', 'vllm.'))])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env={})
    assert all(name.startswith(("eagle.integrations", "eagle.version")) for name in eval(out.stdout))


def functions(vllm) -> list[Any]:
    _, sampler, proposer, runner = vllm
    return [
        sampler.rejection_sample,
        sampler.expand_batch_to_tokens,
        proposer.compute_probs_and_sample_next_token,
        runner.GPUModelRunner.sample_tokens,
    ]


def test_four_functions_are_replaced_once(vllm):
    before = functions(vllm)
    register()
    after = functions(vllm)
    assert all(old is not new for old, new in zip(before, after, strict=True))
    register()  # vLLM may load plug-ins several times in one process
    assert after == functions(vllm)


def test_an_unknown_version_is_refused_by_name(vllm):
    vllm[0].__version__ = "0.33.0"
    with pytest.raises(ValueError, match=r"vLLM is 0\.33\.0, the plug-in knows 0\.32\.0: install one of them"):
        register()
    assert not hasattr(vllm[1], plugin.PATCHED)


def test_the_second_model_runner_is_refused(vllm, monkeypatch):
    """It has a rejection step of its own, so that the plug-in would be silently without effect."""
    monkeypatch.setenv(plugin.RUNNER, "1")
    with pytest.raises(ValueError, match=r'set it to 0, or unset .* "rejection_sample_method": "block"'):
        register()


def test_the_first_runner_is_chosen_where_nothing_is_said(vllm, monkeypatch):
    monkeypatch.delenv(plugin.RUNNER)
    register()
    assert os.environ[plugin.RUNNER] == "0"
    monkeypatch.delenv(plugin.RUNNER)


def test_settings_come_from_the_environment():
    assert PluginSettings.from_environment({}) == PluginSettings(OFF, None)
    assert PluginSettings.from_environment({VERIFIER: TOKENWISE, TAU: "seen"}) == PluginSettings(
        TOKENWISE, Path("seen")
    )
    with pytest.raises(ValueError, match=r"EAGLE_HSD_VLLM_VERIFIER is 'block': set it to hsd, tokenwise or off"):
        PluginSettings.from_environment({VERIFIER: "block"})


@pytest.mark.parametrize("verifier", [HSD, TOKENWISE])
def test_both_rules_are_expected_on_the_same_rounds(tmp_path, verifier):
    """Means of `law(..).expected_tau` over sampled requests that had a draft; written as a process ends or in between.

    The tolerance is that of sums of some hundred float64 numbers.
    """
    expected, accepted, rounds = {"tokenwise": 0.0, "hsd": 0.0}, 0, 0
    rule = RejectionStep(PluginSettings(verifier, tmp_path), lambda ids, *args, **kwargs: torch.zeros(4, 4).int())
    for seed in range(64):
        batch = Batch([3, 0, 2, 1], [1.0, 1.0, 0.0, 0.5], seed=seed)
        output = rule(*batch.arguments())
        for b in (0, 3):
            accepted += int((output[b] >= 0).sum()) - 1
            rounds += 1
            for name in expected:
                expected[name] += law(*batch.tree(b), name).expected_tau
    (file,) = tmp_path.glob("tau-*.json")
    seen = json.loads(file.read_text())
    assert (seen["verifier"], seen["rounds"], seen["drafted"]) == (verifier, rounds, 64 * 4)
    assert seen["tau"] == pytest.approx(accepted / rounds)
    assert seen["expected_tau"] == pytest.approx({name: total / rounds for name, total in expected.items()}, abs=1e-10)
    assert seen["expected_tau"]["hsd"] > seen["expected_tau"]["tokenwise"]
    if verifier == HSD:  # five standard errors, which an unbiased rule passes for all but one seed in two million
        assert abs(seen["tau"] - seen["expected_tau"]["hsd"]) < 5 * seen["standard_error"]["hsd"]


def test_drafts_of_seeded_requests_repeat():
    """One seed, one text: a draft drawn from torch's own generator made each run another. Laws are handed on as is."""

    def draw(logits, sampling):
        probs = logits.softmax(-1)
        return torch.multinomial(probs, 1)[:, 0], probs

    batch = Batch([8], [1.0])
    drafts = []
    for run in range(2):
        torch.manual_seed(run)
        crowd = Batch([1] * 8, [1.0] * 7 + [0.0])
        crowd.generators = {row: torch.Generator().manual_seed(row) for row in (1, 5, 7)}
        tokens, probs = seeded_drafts(draw)(batch.logits, crowd.sampling)
        assert torch.equal(probs, batch.logits.softmax(-1))
        drafts.append(tokens)
    assert torch.equal(drafts[0][[1, 5]], drafts[1][[1, 5]])
    assert not torch.equal(drafts[0], drafts[1])  # the others are drawn as before


def test_drafts_of_seeded_requests_have_the_drafts_law():
    """Pearson's chi-square of 4,000 seeds in ten cells: mean 10, standard deviation 4.5; 35 has odds of 1 in 8,000."""
    batch, counts = Batch([1], [1.0]), torch.zeros(11, dtype=torch.float64)
    probs = batch.logits.softmax(-1)
    for seed in range(4000):
        batch.generators = {0: torch.Generator().manual_seed(seed)}
        tokens, _ = seeded_drafts(lambda logits, sampling: (torch.zeros(1, dtype=torch.int64), probs))(
            batch.logits, batch.sampling
        )
        counts[tokens] += 1
    assert float(((counts - 4000 * probs[0]) ** 2 / (4000 * probs[0])).sum()) < 35


def test_a_seed_is_not_used_for_tokens_that_are_thrown_away():
    """Behind a piece of a prompt: vLLM's own runner ends there on a CPU."""
    fresh = {row: torch.Generator().manual_seed(row).get_state() for row in range(4)}
    with pytest.raises(RuntimeError, match="CPU Generator does not use offset"):
        Runner().sample_tokens(None)
    runner = Runner()
    before = dict(runner.input_batch.generators)
    assert keeping_seeds(Runner.sample_tokens)(runner, None) == [0, 2]
    assert runner.input_batch.generators == before
    untouched = [torch.equal(generator.get_state(), fresh[row]) for row, generator in before.items()]
    assert untouched == [False, True, False, True]
    with pytest.raises(RuntimeError, match="of the model"):
        keeping_seeds(Runner.sample_tokens)(runner, "fails")
    assert runner.input_batch.generators == before
