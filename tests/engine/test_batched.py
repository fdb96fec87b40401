"""The batched generator against the obvious one: one conversation at a time, no cache, the whole text in each step."""

import pytest
import torch
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from eagle.decode import DecodeOptions, autoregressive
from eagle.engine.batched import Answered, AnswerLimits, BatchedDecoder, Job
from eagle.engine.lanes import ATTENTION_NAME, BLOCK, LaneCache
from hsd_verify.draw import draw_indices
from tests import tiny_text
from tests.engine.families import REFUSED, RIGHT, family_target
from tests.tiny import random_ids, tiny_target

END = 257


def obvious(model, job: Job, limits: AnswerLimits, end_ids=(END,)) -> Answered:
    """What ``BatchedDecoder`` must give, written without lanes."""
    result, generator, ids = Answered(job, []), torch.Generator().manual_seed(job.seed), []
    for run in job.runs:
        run = run[1:] if ids and run[0] == ids[-1] else run
        if ids and len(ids) + len(run) + 1 > limits.max_length:
            break
        ids += run
        start = len(ids)
        while len(ids) - start < limits.max_new_tokens and len(ids) < limits.max_length:
            logits = model(torch.tensor([ids])).logits[0, -1]
            if job.temperature == 0:
                ids.append(int(logits.argmax()))
            else:
                law = torch.softmax(logits / job.temperature, dim=-1)
                ids.append(int(draw_indices(law[None], torch.rand(1, generator=generator))))
            if ids[-1] in end_ids:
                break
        result.spans.append((start, len(ids)))
        result.finish.append("stop" if ids[-1] in end_ids else "length")
        if ids[-1] not in end_ids:
            break
    result.input_ids = ids
    return result


def jobs(num_jobs: int, num_turns: int = 1, longest: int = 40) -> list[Job]:
    random = torch.Generator().manual_seed(1)
    made = []
    for index in range(num_jobs):
        lengths = torch.randint(2, longest, (num_turns,), generator=random).tolist()
        runs = [tuple(torch.randint(0, 256, (length,), generator=random).tolist()) for length in lengths]
        runs = [runs[0]] + [(END, *run) for run in runs[1:]]
        made.append(Job(f"job-{index}", tuple(runs), temperature=index % 2 * 1.0, seed=index))
    return made


def by_id(answers) -> dict[str, tuple]:
    answers = list(answers)
    found = {answer.job.id: (answer.input_ids, answer.spans, answer.finish) for answer in answers}
    assert len(found) == len(answers), "a job was answered twice"
    return found


def ending_often(model):
    """Make the end of turn the likeliest token now and then, so that answers end by themselves."""
    with torch.no_grad():
        model.lm_head.weight[END] *= 1.5
    return model


@pytest.mark.parametrize("family", [LlamaConfig, Qwen2Config, Qwen3Config, MistralConfig])
@torch.inference_mode()
def test_answers_equal_the_obvious_generator(family):
    """More jobs than lanes, two turns, both temperatures: refilled lanes must not see their predecessors."""
    settings = tiny_text.shape() | ({"sliding_window": None} if family is MistralConfig else {})
    model, limits = ending_often(tiny_text.target(family(**settings))), AnswerLimits(max_new_tokens=16, max_length=100)
    work = jobs(7, num_turns=2)
    expected = by_id(obvious(model, job, limits) for job in work)
    assert by_id(BatchedDecoder(model, [END], limits, num_lanes=3, group_size=1).answer(work)) == expected
    assert any("stop" in finish for _, _, finish in expected.values()), "no answer ended by itself"
    assert any(len(spans) == 2 for _, spans, _ in expected.values()), "no second turn was reached"


@torch.inference_mode()
def test_long_answers_cross_buffers_and_regrouping():
    """Lengths beyond a block of 64, uneven from the start: groups grow, shrink and change members under way."""
    model, limits = tiny_text.target(), AnswerLimits(max_new_tokens=70, max_length=200)
    work = [*jobs(1, longest=6), *jobs(4, longest=120)[1:]]
    expected = by_id(obvious(model, job, limits, ()) for job in work)
    assert by_id(BatchedDecoder(model, [], limits, num_lanes=2, group_size=1).answer(work)) == expected
    assert max(len(ids) for ids, _, _ in expected.values()) > 2 * BLOCK


def test_neighbours_do_not_change_an_answer():
    model, limits, work = tiny_text.target(), AnswerLimits(20, 100), jobs(6)
    alone = by_id(BatchedDecoder(model, [END], limits, num_lanes=1, group_size=1).answer(work))
    assert by_id(BatchedDecoder(model, [END], limits, num_lanes=6, group_size=3).answer(work[::-1])) == alone


def test_the_model_attends_as_before_afterwards():
    model = tiny_text.target()
    before = model.config._attn_implementation
    answers = BatchedDecoder(model, [END], AnswerLimits(5, 100), num_lanes=2, group_size=1).answer(jobs(3))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert model.config._attn_implementation == before


def test_slots_must_divide_into_groups():
    with pytest.raises(ValueError, match="10 lanes do not divide into groups of 4"):
        LaneCache(8, 10, 4, torch.device("cpu"))


def test_a_token_of_probability_zero_is_never_drawn():
    """Zeros before, between and behind: the smallest and the largest uniform below one must step over them."""
    law = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0, 0.0]])
    for uniform, token in [(0.0, 1), (0.25, 3), (1 - 2**-24, 3)]:
        assert int(draw_indices(law, torch.tensor([uniform]))) == token


def test_draws_follow_the_law():
    """An even grid of uniforms meets each token in proportion to its probability, to one grid point at either end."""
    law = torch.softmax(torch.randn(50, generator=torch.Generator().manual_seed(0)) * 2, dim=-1)
    grid = (torch.arange(20_000) + 0.5) / 20_000
    counts = torch.bincount(draw_indices(law.expand(len(grid), -1), grid), minlength=50)
    assert (counts - law * 20_000).abs().max() <= 2


@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "llama4_text", "gpt_bigcode", "qwen3_moe"])
def test_lanes_of_every_kind_of_sight_equal_plain_decoding(family):
    """Targets with sliding windows were refused; they are given a mask for each kind of layer."""
    target = family_target(family, RIGHT[family])
    decoder = BatchedDecoder(target.model, [], AnswerLimits(10, 60), num_lanes=4, group_size=2)
    jobs = [Job(str(seed), (tuple(random_ids(6 + 5 * seed, seed)),), 0.0, seed) for seed in range(5)]
    for answered in list(decoder.answer(jobs)):
        prompt = list(answered.job.runs[0])
        steps = autoregressive(target, prompt, DecodeOptions(max_new_tokens=10))
        assert answered.input_ids == [*prompt, *(token for step in steps for token in step.tokens)]


@pytest.mark.parametrize("family", ["falcon", "deepseek_v3", "gpt_oss", "mpt", "qwen3_next"])
def test_what_cannot_be_read_in_lanes_says_so_at_the_start(family):
    """Their own attention met a tuple of groups, and ended in a traceback."""
    changes = RIGHT[family] if family in RIGHT else REFUSED[family][1]
    target = family_target(family, changes)
    with pytest.raises(ValueError, match=r"cannot answer many conversations side by side.*answers: original"):
        BatchedDecoder(target.model, [], AnswerLimits(10, 60), num_lanes=4, group_size=2)
    assert target.config._attn_implementation != ATTENTION_NAME


def test_lanes_do_not_reach_over_a_change_of_angles():
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    target = tiny_target("llama", rope_scaling=scaling, max_position_embeddings=64)
    with pytest.raises(ValueError, match="change behind 64 tokens, max_length is 65: lower max_length to 64"):
        BatchedDecoder(target.model, [], AnswerLimits(10, 65))
