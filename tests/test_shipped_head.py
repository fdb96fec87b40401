"""The shipped head with the real target: what a user gets without naming anything."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.engine.batched import AnswerLimits, BatchedDecoder
from eagle.loading import SHIPPED_HEAD, load_head, load_target
from eagle.packages import MT_BENCH
from eagle.prompting import encode_prompt, render_prompt
from eagle.sampling import Sampling, seeded
from eagle.trees import EagleTree
from eagle.trees.coupled import CoupledTree

ROOT = Path(__file__).parent.parent
NUM_PROMPTS, OPTIONS = 20, DecodeOptions(max_new_tokens=24)
CHAIN, TREE = EagleTree(num_nodes=5, depth=4, top_k=1), EagleTree()
MAX_BYTES = 40_000_000


@pytest.fixture(scope="module")
def prompts(smollm2) -> list[list[int]]:
    """The first turns of real MT-Bench questions, four apart so that every category is there."""
    questions = [json.loads(line) for line in MT_BENCH.path().read_text(encoding="utf-8").splitlines()][::4]
    turns = [[{"role": "user", "content": question["turns"][0]}] for question in questions[:NUM_PROMPTS]]
    return [encode_prompt(smollm2.tokenizer, render_prompt(smollm2.tokenizer, turn)) for turn in turns]


@pytest.fixture(scope="module")
def plain(smollm2, prompts) -> list[list[int]]:
    return [[t for step in autoregressive(smollm2, ids, OPTIONS) for t in step.tokens] for ids in prompts]


@pytest.mark.parametrize("policy", [CHAIN, TREE], ids=["chain", "tree"])
def test_greedy_output_equals_the_targets_own_on_real_prompts(smollm2, prompts, plain, policy):
    """Float32, token for token; and the head earns its place: it gets tokens accepted."""
    session = Session(smollm2, EagleDrafter(load_head(target=smollm2), smollm2.embed, policy))
    assert len(prompts) == NUM_PROMPTS
    accepted = rounds = 0
    for ids, expected in zip(prompts, plain, strict=True):
        steps = list(session.decode(ids, OPTIONS))
        assert [token for step in steps for token in step.tokens] == expected
        accepted += sum(step.num_accepted for step in steps)
        rounds += len(steps) - 1
    assert accepted > 0.3 * rounds  # an untrained head, or features of the wrong layers, stay below 0.05


@pytest.mark.parametrize("sampling", [Sampling(0.3), Sampling(0.7), Sampling(1.0, top_p=0.9)], ids=["0.3", "0.7", "1"])
def test_coupled_text_equals_plain_decodings_on_real_prompts(smollm2, prompts, sampling):
    """Float32, token for token, above temperature 0 too; and the noise tells the head enough to be accepted."""
    options, accepted = DecodeOptions(sampling, max_new_tokens=12, verifier="coupled"), 0
    session = Session(smollm2, EagleDrafter(load_head(target=smollm2), smollm2.embed, CoupledTree()))
    for seed, ids in enumerate(prompts[4::10]):
        expected = [token for step in autoregressive(smollm2, ids, options, seeded(seed)) for token in step.tokens]
        steps = list(session.decode(ids, options, seeded(seed)))
        assert [token for step in steps for token in step.tokens] == expected
        accepted += sum(step.num_accepted for step in steps)
    assert accepted >= 5


def test_the_shipped_head_is_small_and_documented():
    assert sum(path.stat().st_size for path in SHIPPED_HEAD.iterdir()) < MAX_BYTES
    card = (SHIPPED_HEAD / "README.md").read_text(encoding="utf-8")
    for word in ("scripts/train.py", "tokens", "overlap", "tau"):
        assert word in card


def test_the_readmes_python_lines_run():
    code = re.search(r"```python\n(from eagle import.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert code is not None
    short = code[1].replace("load_head(target=target))", "load_head(target=target), options=SHORT)")
    result = subprocess.run(
        [sys.executable, "-c", "from eagle import DecodeOptions\nSHORT = DecodeOptions(max_new_tokens=8)\n" + short],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) > 3


def test_the_real_target_in_bfloat16_is_found_right():
    """A deep model's rounding is larger than a tiny one's: regenerating was refused for it."""
    target = load_target(dtype=torch.bfloat16, device="cpu")
    assert target.suitability.trees is None
    BatchedDecoder(target.model, target.end_token_ids, AnswerLimits(8, 64), num_lanes=4, group_size=2)
