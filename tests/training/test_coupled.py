"""The loss of coupled decoding: what the target chooses under noise, against exact laws; values, gradients and runs."""

import math

import pytest
import torch

from eagle.data.batches import collate
from eagle.training import loss
from eagle.training.log import METRICS, read_metrics
from eagle.training.loss import Coupling, Laws, LossWeights, fused_loss, reference_loss
from eagle.training.metrics import COUPLED_TEMPERATURES, QUANTITIES, measure_predictions
from eagle.training.module import TrainingTest
from eagle.training.signals import LawStates, SharedNoise, random_temperatures
from eagle.training.steps import conversation_at, law_positions
from eagle.training.target_snapshot import OutputLayer
from tests.training import runs

SIGMAS = 5.0  # of a mean over positions: a false alarm once in 1.7 million checks
COUPLED = LossWeights(0, coupled=1)


def shared_noise(scores, draft_ids, seed=0):
    """Noise for a target whose logits are `scores` (P, V): its states are they, its output layer is the identity."""
    output = OutputLayer(torch.eye(scores.shape[1], dtype=scores.dtype))
    return SharedNoise(LawStates(scores, *output.summary(scores)), output, draft_ids, seed)


def problem(scores, logits, draft_ids, temperature, seed=0):
    """rows, weight, laws and scale for draft logits (P, J, Vd): rows are they, the head's output layer the identity."""
    noise = shared_noise(scores, draft_ids, seed)
    coupling = Coupling(noise, torch.as_tensor(temperature).expand(len(scores)))
    laws = Laws(noise.laws, noise.output.restricted(draft_ids), coupling)
    weight = torch.eye(len(draft_ids), dtype=logits.dtype)
    return logits, weight, laws, torch.ones(logits.shape[:2], dtype=logits.dtype)


def coupled_loss(*arguments):
    """The fused loss of a `problem`."""
    rows, weight, laws, scale = problem(*arguments)
    return fused_loss(rows, weight, laws, scale, COUPLED)


def random_problem():
    torch.manual_seed(0)
    scores, logits = torch.randn(20, 12, dtype=torch.float64), torch.randn(20, 3, 7, dtype=torch.float64)
    rows, weight, laws, scale = problem(scores, logits, torch.arange(1, 12)[:7], torch.rand(20))
    scale[:3, 0], scale[5] = 0, 0.3
    return rows.requires_grad_(), torch.randn_like(weight).requires_grad_(), laws, scale


def all_choices(noise, temperature):
    """Of all positions, a chunk at a time: x* (P,)."""
    count = len(noise.laws.states)
    return torch.cat([
        noise.race(slice(at, min(at + 64, count))).won(torch.full((min(64, count - at),), temperature)).best
        for at in range(0, count, 64)
    ])  # fmt: skip


@pytest.mark.parametrize("terms", [COUPLED, LossWeights(0.5, coupled=0.3), LossWeights(0.3, 0.2, 0.1, 0.7, 0.9)])
def test_values_and_gradients_equal_autograd(terms, monkeypatch):
    """float64 throughout, so only the order of sums differs."""
    monkeypatch.setattr(loss, "CHUNK_POSITIONS", 4)
    monkeypatch.setattr(loss, "BLOCK_POSITIONS", 11)  # two blocks of three chunks, the last of each short
    rows, weight, laws, scale = random_problem()
    fused, reference = (f(rows, weight, laws, scale, terms) for f in (fused_loss, reference_loss))
    gradients = [torch.autograd.grad(x.total * 0.5, (rows, weight)) for x in (fused, reference)]
    assert 0 < float(fused.agreement.sum()) < fused.positions.sum()
    for found, expected in [*zip(fused, reference, strict=True), *zip(*gradients, strict=True)]:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("terms", [COUPLED, LossWeights(0.5, coupled=0.3)])
def test_gradients_equal_finite_differences(terms):
    rows, weight, laws, scale = random_problem()
    assert torch.autograd.gradcheck(lambda r, w: fused_loss(r, w, laws, scale, terms).total, (rows, weight))


def test_half_precision_gradients_point_the_same_way():
    """bf16 products: relative error of a gradient entry about 2^-8, so the cosine with the exact one stays near 1."""
    rows, weight, laws, scale = random_problem()
    exact = torch.autograd.grad(reference_loss(rows, weight, laws, scale, COUPLED).total, weight)[0]
    short, master = rows.detach().bfloat16(), weight.detach().float().requires_grad_()
    found = torch.autograd.grad(fused_loss(short, master, laws, scale.float(), COUPLED).total, master)[0]
    assert torch.cosine_similarity(found.flatten().double(), exact.flatten(), dim=0) > 0.995


def expected_of_two(target, draft, temperature):
    """Two draft tokens beside others: mean loss, d loss / d logit of the second and agreement, and their deviations.

    Over d = g_1 - g_0, which is logistic. The others arrive at rate R = sum exp(z / T), token i after
    E_i exp(-z_i / T); given d, E_0 is Gamma(2) of rate 1 + exp(-d), so the first of both, E_0 m, is before the others
    with probability ((1 + exp(-d)) / (1 + exp(-d) + R m))^2.
    """
    d = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    density = torch.sigmoid(d) * torch.sigmoid(-d) * (d[1] - d[0])
    first, second, *others = target / temperature
    arrivals = torch.stack([torch.full_like(d, -first).exp(), (-d - second).exp()])
    m, best = arrivals.min(0)
    rate = torch.stack(others).exp().sum()
    inside = ((1 + (-d).exp()) / (1 + (-d).exp() + rate * m)) ** 2
    margin = draft[1] - draft[0] + temperature * d
    losses = torch.nn.functional.softplus(torch.where(best == 1, -margin, margin))
    values = losses, torch.sigmoid(margin) - best, ((margin > 0) == best).double()
    means = [float((density * inside * value).sum()) for value in values]
    squares = [float((density * inside * value**2).sum()) for value in values]
    return [(mean, math.sqrt(square - mean**2)) for mean, square in zip(means, squares, strict=True)]


@pytest.mark.parametrize("temperature", [0.4, 1.0])
def test_the_mean_over_noise_is_the_integral(temperature):
    """Loss, gradient and agreement of one prediction, averaged over 40,000 draws of the noise."""
    count, ids = 40_000, torch.tensor([1, 3])
    target = torch.tensor([0.3, 0.9, -0.5, 0.2], dtype=torch.float64)
    draft = torch.tensor([0.4, 0.8], dtype=torch.float64)
    logits = draft.repeat(count, 1, 1).requires_grad_()
    found = coupled_loss(target.repeat(count, 1), logits, ids, temperature)
    slope = torch.autograd.grad(found.total, logits)[0][:, 0, 1].sum()
    expected = expected_of_two(target[[1, 3, 0, 2]], draft, temperature)
    for value, (mean, deviation) in zip((found.total.detach(), slope, found.agreement[0]), expected, strict=True):
        assert abs(float(value) / count - mean) < SIGMAS * deviation / math.sqrt(count)


@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.0])
def test_the_chosen_token_has_the_law_of_the_whole_vocabulary(temperature):
    """Trap: a target that races on the draft vocabulary alone chooses its tokens too often. Chi-square over the draft
    tokens and all others together, with a false alarm once in a million.
    """
    count, scores, ids = 30_000, torch.linspace(-1, 1, 40), torch.arange(0, 40, 2)
    p = (scores / temperature).softmax(-1)
    expected = torch.cat([(1 - p[ids].sum())[None], p[ids]]).double() * count
    best = all_choices(shared_noise(scores.repeat(count, 1), ids), temperature)
    statistic = ((torch.bincount(best + 1, minlength=21) - expected) ** 2 / expected).sum()
    tail = torch.special.gammaincc(torch.tensor(20 / 2, dtype=torch.float64), statistic / 2)  # of 20 degrees of freedom
    assert expected.min() > 5 and float(tail) > 1e-6


def test_without_temperature_it_is_cross_entropy_at_the_targets_best_token():
    torch.manual_seed(1)
    scores, logits, ids = torch.randn(300, 9), torch.randn(300, 2, 5), torch.tensor([0, 2, 3, 6, 8])
    found = coupled_loss(scores, logits, ids, 0.0)
    best = scores.argmax(-1)
    known = (best[:, None] == ids).any(-1)
    wanted = torch.searchsorted(ids, best).clamp_max(4)[:, None].expand(-1, 2)
    plain = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), wanted, reduction="none") * known[:, None]
    assert 0 < known.sum() < 300
    torch.testing.assert_close(found.loss, plain.sum(0))
    assert torch.equal(found.agreement, ((logits.argmax(-1) == wanted) & known[:, None]).sum(0).float())


def test_a_draft_vocabulary_of_all_tokens_holds_every_choice():
    noise = shared_noise(torch.randn(64, 9), torch.arange(9))
    for temperature in (0.0, 0.5, 1.0):
        choice = noise.race(slice(0, 64)).won(torch.full((64,), temperature))
        assert torch.equal(choice.best, (noise.laws.states + choice.noise).argmax(-1))


def test_all_steps_that_predict_a_position_see_the_same_noise():
    """As decoding has it: the field belongs to the position, not to the depth from which it is drafted."""
    logits = torch.randn(50, 1, 5).expand(50, 4, 5).contiguous()
    found = coupled_loss(torch.randn(50, 9), logits, torch.arange(5), 1.0)
    assert len(set(found.loss.tolist())) == 1 and len(set(found.agreement.tolist())) == 1


def test_a_perfect_head_agrees_wherever_it_knows_the_token():
    scores = torch.randn(200, 9)
    found = coupled_loss(scores, scores[:, None, :6], torch.arange(6), 0.8)
    assert float(found.agreement) == int((all_choices(shared_noise(scores, torch.arange(6)), 0.8) >= 0).sum())


def test_noise_follows_from_the_seed_and_the_place():
    scores, part, next_part = torch.zeros(128, 40), slice(0, 64), slice(64, 128)
    first = shared_noise(scores, torch.arange(30), seed=5)
    assert torch.equal(first.race(part).gumbel, shared_noise(scores, torch.arange(30), seed=5).race(part).gumbel)
    others = first.race(next_part), shared_noise(scores, torch.arange(30), seed=6).race(part)
    assert not any(torch.isclose(first.race(part).gumbel, other.gumbel, rtol=1e-4).any(-1).all() for other in others)


def test_races_are_not_won_on_a_grid():
    """Trap: float32 uniforms have 24 bits, so of 2 million numbers the largest ones repeat, and none exceeds 16.6."""
    flat, ids = OutputLayer(torch.zeros(2**15, 1)), torch.arange(2**15)
    states = torch.zeros(64, 1)
    numbers = SharedNoise(LawStates(states, *flat.summary(states)), flat, ids, 0).race(slice(0, 64)).gumbel.flatten()
    largest = numbers[numbers > 9]  # about 260; float32 tells neighbours at 9 apart by 1e-6 of their size
    assert len(largest) > 150 and len(largest.unique()) >= len(largest) - 2


def test_every_conversation_has_a_temperature():
    """Uniform on [0, 1]: of 10,000, the empirical law is within 0.03 of it (Kolmogorov-Smirnov, once in 10^7)."""
    drawn = random_temperatures(10_000, 3, torch.device("cpu")).sort().values
    assert (drawn - torch.linspace(0, 1, 10_000)).abs().max() < 0.03
    assert not torch.equal(
        random_temperatures(5, 3, torch.device("cpu")), random_temperatures(5, 4, torch.device("cpu"))
    )


@pytest.mark.parametrize("packed", [False, True])
def test_positions_know_their_conversation(packed):
    batch = collate([runs.example(name, 9 + 4 * name) for name in range(3)], range(3), packed)
    conversation, count = conversation_at(law_positions(batch.loss_mask), batch.segments)
    assert conversation.tolist() == [0] * 4 + [1] * 8 + [2] * 12 and count >= 3


def test_agreement_of_a_held_out_prediction_is_what_theory_says():
    """One child under shared noise is accepted with sum_x 1 / sum_y max(p_y / p_x, q_y / q_x), p and q at T."""
    count, ids = 20_000, torch.tensor([0, 1, 2, 4, 5])
    scores, logits = torch.tensor([1.0, 0.2, -0.7, 0.4, 0.0, 0.9]), torch.tensor([0.3, 0.9, -1.0, 0.5, 0.6])
    rows, weight, laws, scale = problem(scores.repeat(count, 1), logits.repeat(count, 1, 1), ids, 1.0)
    measured = measure_predictions(rows, weight, laws, scale > 0, laws.coupling.noise).values[:, 0].mean(0)
    for name, temperature in zip(QUANTITIES[-2:], COUPLED_TEMPERATURES, strict=True):
        p = (scores / temperature).softmax(-1)
        q = torch.zeros(6).index_copy(0, ids, (logits / temperature).softmax(-1))
        expected = sum(1 / torch.maximum(p / p[x], q / q[x]).sum() for x in ids)
        assert abs(measured[QUANTITIES.index(name)] - expected) < SIGMAS * 0.5 / math.sqrt(count)


def test_a_coupled_run_is_resumed_in_the_same_bits(tmp_path):
    """Its noise is a function of seed, step and batch, not of what was drawn before."""
    on, changes = runs.setting(), {"loss_coupled": 1.0, "loss_cross_entropy": 0.5, "num_epochs": 2}
    whole = runs.trained_head(runs.config(tmp_path / "whole", **changes), on)
    parts = runs.config(tmp_path / "parts", **changes)
    runs.trained_head(parts, on, stop_after=1)
    resumed = runs.trained_head(parts, on)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    other = runs.trained_head(runs.config(tmp_path / "other", **changes | {"seed": 1}), on)
    assert not torch.equal(whole.fc.weight, other.fc.weight)


def test_every_batch_of_every_step_has_noise_of_its_own(tmp_path, monkeypatch):
    """Neither a second epoch nor another process repeats it; evaluations do, so that heads are compared under one."""
    seeds: dict[bool, list[int]] = {True: [], False: []}

    def spy(self, signals, at, seed, measure_only=False):
        seeds[measure_only].append(seed)
        return forward(self, signals, at, seed, measure_only)

    forward = TrainingTest.forward
    monkeypatch.setattr(TrainingTest, "forward", spy)
    runs.trained_head(runs.config(tmp_path, loss_coupled=1.0, evaluate_every=1), runs.setting())
    batches = len(set(seeds[True]))
    assert len(set(seeds[False])) == len(seeds[False]) > 4
    assert seeds[True] == seeds[True][:batches] * (len(seeds[True]) // batches) and not set(seeds[True]) & set(
        seeds[False]
    )


def test_a_run_tells_how_often_head_and_target_agree_under_noise(tmp_path):
    runs.trained_head(runs.config(tmp_path, loss_coupled=1.0, num_epochs=1), runs.setting())
    for record in read_metrics(tmp_path / METRICS, "train"):
        assert all(0 <= value <= 1 for value in record["coupled_agreement"])
    for record in read_metrics(tmp_path / METRICS, "eval"):
        assert all(0 <= value <= 1 for name in ("coupled_06", "coupled_1") for value in record[name])


def test_other_losses_draw_no_noise(tmp_path, monkeypatch):
    """The term costs a pass over the whole vocabulary, which runs without it must not pay."""
    monkeypatch.setattr("eagle.training.module.Coupling", None)
    runs.trained_head(runs.config(tmp_path, num_epochs=1), runs.setting())
    assert all("coupled_agreement" not in record for record in read_metrics(tmp_path / METRICS, "train"))
