"""The drafter against its slow, obvious form: no cache, one path at a time."""

from dataclasses import replace

import pytest
import torch

from eagle.chance import Chance
from eagle.chat import Chat
from eagle.decode import DecodeOptions, Session
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.engine.masks import tree_mask
from eagle.engine.target import Target
from eagle.sampling import Sampling, seeded
from eagle.trees import EagleTree, SampledChain, WithoutReplacement
from eagle.trees.protocols import Expansion, bare_root
from tests.tiny import random_ids, tiny_drafter, tiny_head, tiny_target


def head_over(head, target, features, tokens, guesses):
    """Logits after `tokens` + `guesses`, from one uncached pass over true features and then step by step.

    features (T, 3H) stand beside tokens (T,), each one position older; guesses continue on the head's own output.
    """
    hidden = head.fuse(features)
    output = plain_pass(head, target, hidden, tokens)
    for guess in guesses:
        tokens = torch.cat([tokens, torch.tensor([guess])])
        hidden = torch.cat([hidden, output[-1:]])
        output = plain_pass(head, target, hidden, tokens)
    return head.logits(output[-1])


def plain_pass(head, target, hidden, tokens):
    length = len(tokens)
    mask = tree_mask(torch.ones(length, length).tril().bool(), 0, torch.float32)

    def attend(query, key, value):
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + mask
        return scores.softmax(-1) @ value

    return head(hidden[None], target.embed(tokens)[None], torch.arange(length)[None], attend)[0]


class Recorder:
    """A policy that expands a fixed tree and keeps what the proposer answered."""

    verifier = "hsd"

    def grow(self, proposer, chance, max_depth):
        first = yield Expansion(torch.tensor([3, 4]), torch.tensor([0, 0]))
        second = yield Expansion(torch.tensor([5, 6, 7]), torch.tensor([1, 2, 2]))
        self.logits = {(): proposer.root_logits, (3,): first[0], (4,): first[1]}
        self.logits |= {(3, 5): second[0], (4, 6): second[1], (4, 7): second[2]}
        return bare_root(proposer)


@torch.inference_mode()
def test_tree_expansion_equals_one_path_at_a_time(target):
    ids, policy, head = torch.tensor(random_ids(12)), Recorder(), tiny_head(target)
    features = target.prefill(ids, target.new_cache()).features  # (12, 3H)
    drafter = EagleDrafter(head, target.embed, policy)
    drafter.observe(ids[:8], features[:7])  # in pieces, as the decode loop does
    drafter.observe(ids[8:9], features[7:8])
    drafter.observe(ids[9:], features[8:11])
    for _ in range(2):  # proposing must not change what is known
        drafter.propose(Chance(Sampling()), 3)
        for path, logits in policy.logits.items():
            expected = head_over(head, target, features[:11], ids[1:], path)
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)  # float32, other summation order


def test_truncating_the_drafter_equals_a_fresh_one(target):
    ids = torch.tensor(random_ids(12))
    features = target.prefill(ids, target.new_cache()).features
    policy = EagleTree(num_nodes=8, depth=3, top_k=2)
    used, fresh = (tiny_drafter(target, policy) for _ in range(2))
    used.observe(ids, features[:-1])
    used.truncate(5)
    used.observe(ids[5:9], features[4:8])
    fresh.observe(ids[:9], features[:8])
    trees = [drafter.propose(Chance(Sampling()), 3) for drafter in (used, fresh)]
    assert torch.equal(trees[0].tokens, trees[1].tokens) and torch.equal(trees[0].parents, trees[1].parents)


def test_features_of_another_target_are_refused(target):
    drafter = tiny_drafter(target, EagleTree())
    with pytest.raises(ValueError, match=r"go with at most 3 features of width 96, got \(3, 60\)"):
        drafter.observe(torch.tensor([1, 2, 3, 4]), torch.zeros(3, 60))


def test_proposing_before_observing_is_refused(target):
    with pytest.raises(ValueError, match="nothing observed yet"):
        tiny_drafter(target, EagleTree()).propose(Chance(Sampling()), 3)


def test_the_dynamic_tree_keeps_the_best_joint_probabilities(target):
    """Against brute force: every path of up to three of the top tokens, ranked by joint draft probability."""
    ids, head = torch.tensor(random_ids(9)), tiny_head(target, draft_vocab_size=4)
    with torch.inference_mode():
        features = target.prefill(ids, target.new_cache()).features[:-1]
        drafter = EagleDrafter(head, target.embed, EagleTree(num_nodes=10, depth=2, top_k=4))
        drafter.observe(ids, features)
        tree = drafter.propose(Chance(Sampling()), 2)
        token_of = head.vocabulary.target_ids.tolist()
        joint = {}
        first = head_over(head, target, features, ids[1:], []).softmax(-1).tolist()
        for a, pa in enumerate(first):
            joint[(token_of[a],)] = pa
            second = head_over(head, target, features, ids[1:], [token_of[a]]).softmax(-1).tolist()
            joint |= {(token_of[a], token_of[b]): pa * pb for b, pb in enumerate(second)}
    best = sorted(joint, key=lambda path: -joint[path])[:9]
    paths = [tuple(tree.tokens[n].item() for n in tree.path(node)) for node in range(1, tree.num_nodes)]
    assert sorted(paths) == sorted(best)


@pytest.mark.parametrize("policy", [EagleTree(num_nodes=12, depth=4, top_k=3), SampledChain(4)])
@pytest.mark.parametrize("max_depth", [0, 1, 2])
def test_trees_respect_the_depth_limit(target, policy, max_depth):
    ids = torch.tensor(random_ids(9))
    drafter = tiny_drafter(target, policy)
    drafter.observe(ids, target.prefill(ids, target.new_cache()).features[:-1])
    tree = drafter.propose(Chance(Sampling(temperature=1.0), seeded(0)), max_depth)
    assert max(tree.depth) == max_depth
    assert tree.tokens[0] == ids[-1]


def test_policy_settings_are_checked():
    with pytest.raises(ValueError, match="top_k is 0, it must be at least 1"):
        EagleTree(top_k=0)
    with pytest.raises(ValueError, match="draft_temperature is 0, it must be larger than 0"):
        EagleTree(draft_temperature=0)


def test_a_prompt_is_read_in_pieces(target, monkeypatch):
    """Its mask had T x T entries."""
    ids = torch.tensor(random_ids(40))
    features = target.prefill(ids, target.new_cache()).features[:-1]
    laws = []
    for piece in (1024, 7, 1):
        monkeypatch.setattr("eagle.drafters.eagle3.PIECE", piece)
        drafter = tiny_drafter(target, EagleTree())
        drafter.observe(ids, features)
        with drafter.open_round() as proposer:
            laws.append(proposer.root_logits)
    # the same sums over other shapes
    torch.testing.assert_close(laws[1], laws[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(laws[2], laws[0], atol=1e-4, rtol=0)


def test_a_head_without_numbers_says_so(target):
    drafter = tiny_drafter(target, EagleTree())
    drafter.head.midlayer.mlp.down_proj.weight.data.fill_(torch.nan)
    ids = torch.tensor(random_ids(12))
    with pytest.raises(ValueError, match="the draft head's states are not finite numbers"):
        drafter.observe(ids, target.prefill(ids, target.new_cache()).features[:-1])


OTHER_LAYERS = (1, 3, 5)


def other_head(target):
    """The tiny head, said to have been trained on other features."""
    head = tiny_head(target)
    head.config = replace(head.config, feature_layers=OTHER_LAYERS)
    return head


def test_a_head_is_not_fed_the_features_of_other_layers(target):
    """Nothing compared them: a head for other layers drafted from the wrong features, and only tau told."""
    message = r"layers \(1, 3, 5\), LlamaForCausalLM hands out those of \(2, 4, 6\): call target\.read_layers"
    with pytest.raises(ValueError, match=message):
        EagleDrafter(other_head(target), target.embed, EagleTree())
    with pytest.raises(ValueError, match=message):
        Chat(target, other_head(target), policy=EagleTree())


def test_a_head_loaded_later_does_not_change_what_an_earlier_one_reads():
    """Both read one target: the second decides its layers, and the first must not go on in silence."""
    target = tiny_target()
    drafter = EagleDrafter(tiny_head(target), target.embed, EagleTree())
    target.read_layers(OTHER_LAYERS)
    output = target.prefill(torch.tensor(random_ids(5)), target.new_cache())
    with pytest.raises(ValueError, match=r"reads the inputs of layers \(2, 4, 6\)"):
        drafter.observe(torch.tensor([*random_ids(5), 3]), output.features)


def test_a_target_reads_the_layers_it_is_told_to():
    target, ids = tiny_target(), torch.tensor(random_ids(8))
    target.read_layers(OTHER_LAYERS)
    with torch.no_grad():
        hidden = target.model(ids[None], output_hidden_states=True).hidden_states
    wanted = torch.cat([hidden[layer][0] for layer in OTHER_LAYERS], -1)
    torch.testing.assert_close(target.prefill(ids, target.new_cache()).features, wanted, atol=5e-5, rtol=0)
    EagleDrafter(other_head(target), target.embed, EagleTree())


@pytest.mark.parametrize(
    "layers", [(2, 4, 9), (-1, 4, 6), (2.0, 4, 6), (False, 4, 6), (2, 2, 6), (6, 4, 2), (2, 4), ()]
)
def test_layers_that_are_none_are_refused(layers):
    with pytest.raises(ValueError, match=r"feature_layers"):
        tiny_target().read_layers(layers)
    with pytest.raises(ValueError, match=r"feature_layers"):
        Target(tiny_target().model, feature_layers=layers)


@pytest.mark.parametrize("policy", [SampledChain(4), WithoutReplacement((2, 2, 1)), EagleTree(12, depth=4, top_k=3)])
def test_a_round_makes_one_pass_of_the_head_a_level(target, policy, monkeypatch):
    """The first level's law follows from the pass that observes the accepted tokens, the deepest level is not read."""
    passes: list[int] = []
    forward = DraftHead.forward
    monkeypatch.setattr(
        DraftHead, "forward", lambda head, *args: passes.append(args[2].shape[1]) or forward(head, *args)
    )
    options = DecodeOptions(Sampling(1.0), max_new_tokens=24, verifier="hsd")
    depths = 0
    for step in Session(target, tiny_drafter(target, policy)).decode(random_ids(9), options, seeded(0)):
        if step.round is not None and step.finish is None and max(step.round.tree.depth):
            depth = max(step.round.tree.depth)
            assert len(passes) == depth if not isinstance(policy, EagleTree) else depth <= len(passes) <= policy.depth
            assert passes[-1] == len(step.tokens)
            depths += depth
        passes.clear()
    assert depths > 8


def test_a_tree_is_read_the_same_in_any_order_of_its_levels(target):
    """Rows are joined when the next pass asks for them: a pass below the root again, after a deeper one."""
    ids, head = torch.tensor(random_ids(12)), tiny_head(target)
    with torch.inference_mode():
        features = target.prefill(ids, target.new_cache()).features
        drafter = EagleDrafter(head, target.embed, EagleTree())
        drafter.observe(ids, features[:-1])
        with drafter.open_round() as proposer:
            found: dict[tuple[int, ...], torch.Tensor] = {
                (3,): proposer.expand(torch.tensor([3]), torch.tensor([0]))[0]
            }
            found[(3, 5)] = proposer.expand(torch.tensor([5]), torch.tensor([1]))[0]
            found[(4,)], found[(3, 5, 6)] = proposer.expand(torch.tensor([4, 6]), torch.tensor([0, 2]))
            found[(4, 7)] = proposer.expand(torch.tensor([7]), torch.tensor([3]))[0]
        for path, logits in found.items():
            expected = head_over(head, target, features[:-1], ids[1:], path)
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)  # float32, other summation order
