"""The decode loop against plain decoding, and its promises about ends, caps and seeds."""

import threading
from typing import Any

import pytest
import torch

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.engine.health import PATIENCE, FiniteWatch
from eagle.engine.masks import tree_mask
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from eagle.timing import PhaseClock
from eagle.trees import EagleTree, SampledChain, TreePolicy
from tests.tiny import random_ids, tiny_drafter, tiny_target, tokens_of

POLICIES: list[TreePolicy] = [
    EagleTree(num_nodes=12, depth=4, top_k=3),
    EagleTree(num_nodes=5, depth=4, top_k=1),
    SampledChain(3),
]
NAMES = ["tree", "greedy chain", "sampled chain"]


def session(target, policy=POLICIES[0]):
    return Session(target, tiny_drafter(target, policy))


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_greedy_decoding_equals_plain_greedy_decoding(target, policy, seed):
    ids, options = random_ids(15, seed), DecodeOptions(max_new_tokens=40)
    assert tokens_of(session(target, policy).decode(ids, options)) == tokens_of(autoregressive(target, ids, options))


def test_plain_decoding_equals_transformers_generate(target):
    ids = random_ids(15)
    expected = target.model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[0, len(ids) :]
    assert tokens_of(autoregressive(target, ids, DecodeOptions(max_new_tokens=30))) == expected.tolist()


def test_a_session_without_drafter_is_plain_decoding(target):
    ids, options = random_ids(15), DecodeOptions(max_new_tokens=20)
    steps = list(Session(target).decode(ids, options))
    assert tokens_of(steps) == tokens_of(autoregressive(target, ids, options))
    assert all(len(step.tokens) == 1 and step.num_accepted == 0 for step in steps)


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_the_same_seed_gives_the_same_text_and_another_seed_another(target, policy):
    ids, options = random_ids(15), DecodeOptions(Sampling(temperature=1.0), max_new_tokens=30)
    runs = [tokens_of(session(target, policy).decode(ids, options, seeded(seed))) for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


def test_two_sessions_can_run_in_turn(target):
    """State belongs to the session: nothing is stored on the model or the head."""
    options = DecodeOptions(max_new_tokens=20)
    prompts = [random_ids(15, seed) for seed in (0, 1)]
    apart = [tokens_of(session(target).decode(ids, options)) for ids in prompts]
    running = [session(target).decode(ids, options) for ids in prompts]
    together: list[list[int]] = [[], []]
    for _ in range(20):
        for tokens, steps in zip(together, running, strict=True):
            step = next(steps, None)
            tokens += step.tokens if step else ()
    assert together == apart


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_continuing_a_conversation_equals_starting_afresh(target, policy):
    """A session keeps the prefix that two prompts share; what it keeps must be what it would read."""
    used, options = session(target, policy), DecodeOptions(max_new_tokens=12)
    ids = random_ids(15)
    longer = ids + tokens_of(used.decode(ids, options)) + random_ids(4, seed=2)
    for prompt in (longer, longer[:9], random_ids(5, seed=3)):
        assert tokens_of(used.decode(prompt, options)) == tokens_of(session(target, policy).decode(prompt, options))


def test_an_abandoned_answer_leaves_the_session_usable(target):
    used, options = session(target), DecodeOptions(max_new_tokens=30)
    steps = used.decode(random_ids(15), options)
    next(steps), next(steps)
    steps.close()
    ids = random_ids(15, seed=1)
    assert tokens_of(used.decode(ids, options)) == tokens_of(session(target).decode(ids, options))


def test_an_interrupt_between_target_and_drafter_leaves_the_session_usable(target, monkeypatch):
    """Ctrl-C can fall between the target's keep and the drafter's observe; the drafter then knows less."""
    used, options = session(target), DecodeOptions(max_new_tokens=30)
    steps, ids = used.decode(random_ids(15), options), random_ids(15)
    next(steps)
    with monkeypatch.context() as patched:
        patched.setattr(used.drafter, "observing", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(steps)
    assert tokens_of(used.decode(ids, options)) == tokens_of(session(target).decode(ids, options))


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_no_token_after_the_end_is_emitted(policy):
    """Every end-of-text id stops, wherever it stands in a round: inside the accepted path or as the bonus token."""
    target = tiny_target()
    ids, options = random_ids(15), DecodeOptions(max_new_tokens=40)
    whole = tokens_of(autoregressive(target, ids, options))
    for position in (0, 3, 7, 12):
        end = whole[position]
        target.model.generation_config.eos_token_id = [96, end]
        steps = list(session(target, policy).decode(ids, options))
        assert tokens_of(steps) == whole[: whole.index(end) + 1]
        assert [step.finish for step in steps] == [None] * (len(steps) - 1) + ["stop"]


@pytest.mark.parametrize("cap", [1, 2, 5, 17])
def test_the_cap_is_met_exactly(target, cap):
    steps = list(session(target).decode(random_ids(15), DecodeOptions(max_new_tokens=cap)))
    assert len(tokens_of(steps)) == cap and steps[-1].finish == "length"
    assert all(step.num_accepted <= len(step.tokens) for step in steps)


def test_accepted_tokens_behind_the_end_are_not_counted():
    """tau must not profit from drafted tokens that the end of text cut away."""
    target = tiny_target()
    ids, options = random_ids(15), DecodeOptions(max_new_tokens=40)
    policy = EagleTree(num_nodes=40, depth=4, top_k=8)
    long = next(s for s in session(target, policy).decode(ids, options) if s.num_accepted >= 1)
    target.model.generation_config.eos_token_id = long.tokens[0]
    last = list(session(target, policy).decode(ids, options))[-1]
    assert last.tokens[-1] == long.tokens[0] and last.num_accepted <= len(last.tokens)


def test_decoding_fills_the_context_and_stops_there():
    target = tiny_target(max_position_embeddings=32)
    ids, options = random_ids(15), DecodeOptions(max_new_tokens=100)
    steps = list(session(target).decode(ids, options))
    assert steps[-1].finish == "context"
    assert tokens_of(steps) == tokens_of(autoregressive(target, ids, options))
    assert len(ids) + len(tokens_of(steps)) == 33  # the last token is drawn but never read


def test_prompts_that_cannot_be_decoded_are_refused(target):
    with pytest.raises(ValueError, match="the prompt is empty"):
        next(session(target).decode([]))
    with pytest.raises(ValueError, match="exceed the target's context of 256 tokens"):
        next(session(target).decode(random_ids(300)))


def test_options_are_checked():
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        DecodeOptions(max_new_tokens=0)
    with pytest.raises(ValueError, match=r"unknown verifier 'fast': choose one of .*hsd"):
        DecodeOptions(verifier="fast")
    with pytest.raises(ValueError, match="temperature is -1"):
        Sampling(temperature=-1)


def test_phases_are_timed_only_when_asked(target):
    clock = PhaseClock(target.device)
    list(session(target).decode(random_ids(15), DecodeOptions(max_new_tokens=10), clock=clock))
    assert set(clock.seconds) == {"prefill", "draft", "target", "verify", "rest"}


def test_sessions_in_threads_do_not_see_each_other(target):
    """Hooks sat on shared layers: two threads collected each other's features."""
    policy: TreePolicy = POLICIES[0]
    options = DecodeOptions(max_new_tokens=40)
    head = tiny_drafter(target, policy).head
    prompts = [random_ids(12 + seed, seed) for seed in range(4)]
    alone = [tokens_of(Session(target, EagleDrafter(head, target.embed, policy)).decode(p, options)) for p in prompts]
    together: dict[int, list[int]] = {}
    start = threading.Barrier(len(prompts))

    def answer(number: int) -> None:
        other = Target(target.model) if number % 2 else target  # another target of the same model is no way around
        own = Session(other, EagleDrafter(head, target.embed, policy))
        start.wait()
        together[number] = tokens_of(own.decode(prompts[number], options))

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(len(prompts))] == alone


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_an_answer_that_was_left_for_another_raises(target, policy):
    """Asked in turn, two answers of one session read each other's cache: both were wrong, without an error."""
    one, options = session(target, policy), DecodeOptions(max_new_tokens=12)
    older = one.decode(random_ids(10), options)
    next(older)
    newer = one.decode(random_ids(11, seed=1), options)
    first = next(newer)
    with pytest.raises(RuntimeError, match="left for another one of the same session"):
        next(older)
    expected = tokens_of(autoregressive(target, random_ids(11, seed=1), options))
    assert [*first.tokens, *tokens_of(newer)] == expected


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("drafted", [False, True])
def test_logits_that_are_no_numbers_end_decoding_with_the_layer(sampling, drafted):
    """Greedy decoding repeated token 0 for ever, sampling ended in an IndexError."""
    target = tiny_target()
    options = DecodeOptions(sampling, max_new_tokens=30)
    running = (session(target) if drafted else Session(target)).decode(random_ids(10), options, seeded(0))
    next(running)
    broken: Any = target.layers[4]
    broken.mlp.down_proj.weight.data.fill_(torch.nan)
    told = "the logits of .* after .* tokens are not finite .* come from layer 4 of 9: load it in another precision"
    with pytest.raises(ValueError, match=told):
        list(running)
    with pytest.raises(ValueError, match=told):
        next(autoregressive(target, random_ids(10), options, seeded(0)))


def test_on_an_accelerator_numbers_are_asked_for_now_and_then_and_before_the_end():
    """Asking at once would make the host wait for every pass."""
    watch = FiniteWatch(lambda: "gone", waits=False)
    watch.look(torch.tensor([[1.0, torch.nan]]))
    for _ in range(PATIENCE - 2):
        watch.look(torch.tensor([[1.0, 2.0]]))
    with pytest.raises(ValueError, match="gone"):
        watch.look(torch.tensor([[1.0, 2.0]]))
    watch.look(torch.tensor([[1.0, 2.0]]))  # what was told is not told again
    watch.settle()
    watch.look(torch.tensor([[torch.inf, 0.0]]))
    with pytest.raises(ValueError, match="gone"):
        watch.settle()
    watch.look(torch.tensor([[-torch.inf, 0.0]]))  # a token that is ruled out is no fault
    watch.settle()


def test_a_long_prompt_is_read_in_pieces_behind_a_cache(target, monkeypatch):
    """Masks of T x T entries took 84 GB at 128k tokens."""
    monkeypatch.setattr("eagle.engine.target.PIECE", 7)
    seen = []
    monkeypatch.setattr(
        "eagle.engine.masks.tree_mask", lambda *args, **kw: seen.append(args[0].shape) or tree_mask(*args, **kw)
    )
    ids, options = random_ids(60), DecodeOptions(max_new_tokens=10)
    expected = tokens_of(autoregressive(target, ids, options))
    one = session(target)
    tokens_of(one.decode(ids[:20], options))
    assert tokens_of(one.decode(ids, options)) == expected
    assert seen and max(shape[0] for shape in seen) <= 12  # a piece, or a tree
