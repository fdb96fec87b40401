"""The sampled half of the self-check: the real session, head and cache on a tiny random model.

Reaches what the enumeration replaces by tables: masks, positions, caches, the head. Above temperature 0 texts are
counted against the target's law; at temperature 0, and of coupled arms at any, they are compared with plain decoding.

Letters: V vocabulary.
"""

import functools
import math
from collections import Counter
from collections.abc import Iterator
from itertools import product

import torch
from transformers import LlamaConfig

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.head import DraftHead
from eagle.engine.feature_layers import FEW_LAYERS
from eagle.engine.target import Target
from eagle.judging import COUPLED
from eagle.sampling import Sampling, seeded
from evaluation.arms import TreeAndVerifier
from evaluation.selfcheck.tiny import random_head, random_model
from hsd_verify.exact.processes import Text

VOCAB_SIZE, LENGTH, NUM_TEXTS = 3, 3, 400
PROMPT = [0, 0, 1, 0, 2, 1, 1, 2, 2, 0]  # every pair of tokens: a lookup finds a match whatever follows
WIDTH = 16  # of the tiny models
FALSE_ALARM = 1e-6  # of one chi-square test
NUM_PROMPTS, EQUAL_LENGTH = 10, 12  # of the comparison with plain decoding


def check_by_chi_square(drafting: TreeAndVerifier, temperature: float) -> tuple[bool, str]:
    """Whether counted texts have the target's law; false alarms: one in a million."""
    target, head = _tiny_models()
    sampling = Sampling(temperature)
    expected = _text_probs(target, sampling)
    session = _session(target, head, drafting)
    counts = Counter(_text(session, drafting, sampling, PROMPT, seed) for seed in range(NUM_TEXTS))
    statistic = sum((counts[text] - NUM_TEXTS * p) ** 2 / (NUM_TEXTS * p) for text, p in expected.items())
    p_value = chi_square_tail(statistic, len(expected) - 1)
    finding = f"chi-square {statistic:.0f} on {len(expected) - 1} degrees of freedom, p = {p_value:.2g}"
    return p_value > FALSE_ALARM, f"{finding}, fails below {FALSE_ALARM:.0e} ({NUM_TEXTS} texts)"


def chi_square_tail(statistic: float, degrees: int) -> float:
    """Probability of a larger statistic when there is nothing to find."""
    halves = torch.tensor([degrees, statistic], dtype=torch.float64) / 2
    return float(torch.special.gammaincc(halves[0], halves[1]))


def check_equality(drafting: TreeAndVerifier, temperature: float) -> tuple[bool, str]:
    """Whether texts equal plain decoding of the same seed, as all do at temperature 0 and coupled ones at any."""
    target, head = _tiny_models()
    session, sampling = _session(target, head, drafting), Sampling(temperature)
    texts = [(p, seed, _text(session, drafting, sampling, p, seed, EQUAL_LENGTH)) for seed, p in enumerate(_prompts())]
    equal = sum(text == _plain_text(target, sampling, prompt, seed) for prompt, seed, text in texts)
    return equal == NUM_PROMPTS, f"{equal} of {NUM_PROMPTS} texts equal plain decoding of the same seed"


def _plain_text(target: Target, sampling: Sampling, prompt: list[int], seed: int) -> Text:
    options = DecodeOptions(sampling, max_new_tokens=EQUAL_LENGTH, verifier=COUPLED, ignore_end=True)
    return tuple(token for step in autoregressive(target, prompt, options, seeded(seed)) for token in step.tokens)


def _prompts() -> Iterator[list[int]]:
    generator = seeded(0)
    for _ in range(NUM_PROMPTS):
        yield torch.randint(VOCAB_SIZE, (6,), generator=generator).tolist()


def _session(target: Target, head: DraftHead, drafting: TreeAndVerifier) -> Session:
    return Session(target, drafting.drafter(target, head))


def _text(
    session: Session, drafting: TreeAndVerifier, sampling: Sampling, prompt: list[int], seed: int, length: int = LENGTH
) -> Text:
    """The first tokens of a session that could go on longer, so that trees are not cut to the length."""
    options = DecodeOptions(sampling, max_new_tokens=4 * length, verifier=drafting.verifier, ignore_end=True)
    tokens: list[int] = []
    for step in session.decode(prompt, options, seeded(seed)):
        tokens += step.tokens
        if len(tokens) >= length:
            break
    return tuple(tokens[:length])


def _text_probs(target: Target, sampling: Sampling) -> dict[Text, float]:
    """The target's own law of the first tokens after the prompt, by plain forwards."""
    law = functools.cache(lambda text: sampling.law(target.read(torch.tensor([[*PROMPT, *text]])).logits[0, -1]))
    texts = product(range(VOCAB_SIZE), repeat=LENGTH)
    return {text: math.prod(float(law(text[:i])[token]) for i, token in enumerate(text)) for text in texts}


@functools.cache
def _tiny_models() -> tuple[Target, DraftHead]:
    """A random target and head with laws far from uniform and from each other."""
    with torch.random.fork_rng(devices=[]):
        config = LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=FEW_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=None,
        )
        target = Target(random_model(config), name="tiny")
        head = random_head(target)
    head.lm_head.weight.data *= 20
    return target, head
