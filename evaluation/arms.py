"""The arms of a comparison: each turns a prompt into a counted answer.

A new arm is a row in `ARMS` or, for another tree or verifier, no change at all: `TREE+VERIFIER` is an arm, and
`TREE+VERIFIER+lookup` the same with a lookup beside the head.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from eagle import judging, planner
from eagle.decode import DecodeOptions, Rounds, Session, autoregressive
from eagle.drafters.eagle3 import EagleDrafter
from eagle.drafters.head import DraftHead
from eagle.drafters.lookup import LookupDrafter
from eagle.endpoint import Endpoint, Wanted
from eagle.engine.placement import local_part
from eagle.engine.target import Target
from eagle.judging import COUPLED
from eagle.levels.building import build_drafter
from eagle.levels.chosen import ChosenLevels
from eagle.pairing import check_pair
from eagle.sampling import Sampling, seeded
from eagle.timing import PhaseClock
from eagle.trees import TreePolicy, parse_policy
from evaluation import peers
from evaluation.eval_config import EvalConfig
from evaluation.expected import ExactTau
from evaluation.recording import Generation, Recording, record

DIGEST_NUMBERS = 64  # of a weight
LOOKUP = "+lookup"


@dataclass(frozen=True)
class TreeAndVerifier:
    """How an arm drafts and verifies."""

    policy: TreePolicy
    verifier: str  # a name in eagle.judging.VERIFIERS
    lookup: bool = False  # beside the head

    def drafter(self, target: Target, head: DraftHead) -> EagleDrafter:
        """One for one session."""
        return EagleDrafter(head, target.embed, self.policy, LookupDrafter() if self.lookup else None)


def parse_drafting(spec: str) -> TreeAndVerifier:
    """`TREE+VERIFIER`, such as `eagle:num_nodes=16+walk`, and `TREE+VERIFIER+lookup`.

    The tree as `eagle.trees.parse_policy` reads it. Raises ValueError for specs that mean nothing.
    """
    tree, verifier, lookup = split_spec(spec)
    if not tree or verifier not in judging.VERIFIERS:
        known = ", ".join(judging.VERIFIERS)
        raise ValueError(f"drafting '{spec}': write TREE+VERIFIER or TREE+VERIFIER{LOOKUP}, verifiers are {known}")
    return TreeAndVerifier(parse_policy(tree), verifier, lookup)


def split_spec(spec: str) -> tuple[str, str, bool]:
    """Tree, verifier and whether there is a lookup; the tree may hold a `+` of its own."""
    drafting = spec.removesuffix(LOOKUP)
    tree, _, verifier = drafting.rpartition("+")
    return tree, verifier, drafting != spec


@dataclass(frozen=True)
class Models:
    """What arms may draw on. An arm that needs what is missing says which flag gives it."""

    target: Target
    head: DraftHead | None = None
    assistant: PreTrainedModel | None = None
    levels: ChosenLevels | None = None
    endpoint: Endpoint | None = None  # a server of the target
    rows: int = 1  # of the batches that trees are sized for
    _planned: dict[str, TreeAndVerifier] = field(init=False, default_factory=dict, repr=False, compare=False)

    def drafting(self, spec: str) -> TreeAndVerifier:
        """`TREE+VERIFIER` for this head on this machine: `auto`, `budgeted` and `eagle` alone get the sizes that pay.

        Planned once: all answers of a run have the same trees, whatever happens to the measured costs meanwhile. Raises
        ValueError for specs that mean nothing, and without a head.
        """
        if spec not in self._planned:
            self._planned[spec] = self._plan(spec)
        return self._planned[spec]

    def _plan(self, spec: str) -> TreeAndVerifier:
        drafting = parse_drafting(spec)
        if self.head is None:
            raise ValueError(f"arm '{spec}' needs a draft head: name one with --head")
        if split_spec(spec)[0] == "eagle":
            return replace(drafting, policy=planner.plan_reference(self.target, self.head, rows=self.rows))
        return replace(drafting, policy=planner.plan(drafting.policy, self.target, self.head, rows=self.rows))


def weights_digest(model: PreTrainedModel) -> str:
    """Twelve hexadecimal digits that change with the weights, from a few numbers of every one: quick for any size.

    Of weights that are divided among processes this one's part counts, and nothing of those that lie on disk.
    """
    digest = hashlib.sha256()
    for name, weight in ((name, local_part(weight)) for name, weight in model.named_parameters()):
        if weight.layout == torch.strided and weight.device.type != "meta":
            flat = weight.detach().reshape(-1)
            few = flat[:: max(len(flat) // DIGEST_NUMBERS, 1)][:DIGEST_NUMBERS]
            digest.update(f"{name} {tuple(weight.shape)} {few.double().tolist()}".encode())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Request:
    """One answer to give."""

    prompt_ids: list[int]
    temperature: float
    max_new_tokens: int
    seed: int

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature)


Arm = Callable[[Models, EvalConfig, Request], Generation]


def _autoregressive(models: Models, _config: EvalConfig, request: Request) -> Generation:
    """Plain decoding with the noise of the request's seed: the target's law, and the very text of coupled arms."""
    clock = PhaseClock(models.target.device)
    options = DecodeOptions(request.sampling, request.max_new_tokens, COUPLED)
    generator = seeded(request.seed, models.target.device)
    steps = autoregressive(models.target, request.prompt_ids, options, generator, clock)
    return record(steps, clock, coupled=_shares_noise(options))


@dataclass(frozen=True)
class Answering:
    """How a session answers a request: alone, or as a row of a batch."""

    session: Session
    request: Request
    verifier: str
    exact: ExactTau | None = None  # tells what rules would accept of the same trees, too

    def alone(self) -> Generation:
        clock = PhaseClock(self.session.target.device)
        steps = self.session.decode(self.request.prompt_ids, self._options, self._generator, clock)
        return record(steps, clock, *self._recorded)

    def rounds(self) -> Rounds:
        return self.session.rounds(self.request.prompt_ids, self._options, self._generator)

    def recording(self) -> Recording:
        return Recording(*self._recorded)

    @property
    def _recorded(self) -> tuple[ExactTau | None, bool]:
        """Of trees that saw the target's noise other rules tell nothing."""
        coupled = _shares_noise(self._options)
        return None if coupled else self.exact, coupled

    @property
    def _options(self) -> DecodeOptions:
        return DecodeOptions(self.request.sampling, self.request.max_new_tokens, self.verifier)

    @property
    def _generator(self) -> torch.Generator:
        return seeded(self.request.seed, self.session.target.device)


def _speculative(spec: str, models: Models, request: Request) -> Answering:
    """Draft and verify as `spec` (TREE+VERIFIER) says, with the head."""
    drafting = models.drafting(spec)
    assert models.head is not None, "drafting was planned for one"
    exact = ExactTau(models.target.end_token_ids, request.sampling.greedy)
    session = Session(models.target, drafting.drafter(models.target, models.head))
    return Answering(session, request, drafting.verifier, exact)


def find_row(name: str, config: EvalConfig) -> Callable[[Models, Request], Answering]:
    """The arm as a row of a batch. Raises ValueError for one that answers one prompt at a time."""
    if name == BASELINE:
        return lambda models, request: Answering(Session(models.target), request, COUPLED)
    spec = drafting_spec(name, config)
    if spec is None:
        raise ValueError(f"arm '{name}' answers one prompt at a time: leave it out, or --batch 1")
    return lambda models, request: _speculative(spec, models, request)


def _hierarchical(models: Models, config: EvalConfig, request: Request) -> Generation:
    """Draft with the levels of `--hierarchy` or `--level`, whatever they accept."""
    return Answering(Session(models.target, _levels_of(models).measured()), request, config.verifier).alone()


def _single(models: Models, config: EvalConfig, request: Request) -> Generation:
    """Draft with the single draft that the plan of `--hierarchy` found best."""
    levels = _levels_of(models)
    drafter = build_drafter(levels.candidates, levels.single)
    return Answering(Session(models.target, drafter), request, config.verifier).alone()


def _levels_of(models: Models) -> ChosenLevels:
    if models.levels is None:
        raise ValueError("arms 'hierarchy' and 'single' need levels: pass --hierarchy RUN/plan.json, or --level")
    return models.levels


def _shares_noise(options: DecodeOptions) -> bool:
    """Whether the tokens are those of the seed's noise field; at temperature 0 there is none."""
    return options.verifier == COUPLED and not options.sampling.greedy


def _peer(models: Models, request: Request, **options: Any) -> Generation:
    sampling, cap = request.sampling, request.max_new_tokens
    return peers.generate(models.target, request.prompt_ids, sampling, cap, request.seed, **options)


def _assisted(models: Models, request: Request) -> Generation:
    if models.assistant is None:
        raise ValueError("arm 'hf_assisted' needs a small language model: name one with --assistant")
    return _peer(models, request, assistant=models.assistant)


def _served(models: Models, _config: EvalConfig, request: Request) -> Generation:
    """One answer of a running server, timed from outside: what it does, and HTTP."""
    assert models.endpoint is not None, "opened with the models"
    wanted = Wanted(request.max_new_tokens, request.temperature, request.seed)
    return peers.streamed(models.endpoint.stream(request.prompt_ids, wanted), models.target, request.max_new_tokens)


ARMS: dict[str, Arm] = {
    "autoregressive": _autoregressive,
    "hf_generate": lambda models, _config, request: _peer(models, request),
    "hf_compiled": lambda models, _config, request: _peer(models, request, compiled=True),
    "hf_prompt_lookup": lambda models, config, request: _peer(
        models, request, prompt_lookup_tokens=config.prompt_lookup_tokens
    ),
    "hf_assisted": lambda models, _config, request: _assisted(models, request),
    "hierarchy": _hierarchical,
    "single": _single,
    "served": _served,
}
LEVEL_ARMS = ("hierarchy", "single")
SERVED = "served"
# arms that are names for TREE+VERIFIER
DRAFTING = {"eagle3": "{eagle3_tree}+walk", "hsd": "{tree}+{verifier}", "coupled": "{tree}+coupled"}
BASELINE, PEER_BASELINE = "autoregressive", "hf_generate"


def find_arm(name: str, config: EvalConfig) -> Arm:
    """The arm of that name, or of that `TREE+VERIFIER`. Raises ValueError for names that mean nothing."""
    if name in ARMS:
        return ARMS[name]
    spec = drafting_spec(name, config)
    if spec is None:
        known = ", ".join([*ARMS, *DRAFTING])
        raise ValueError(f"unknown arm '{name}': choose from {known}, or write TREE+VERIFIER")
    parse_drafting(spec)  # refuse a wrong one before anything is loaded
    return lambda models, _config, request: _speculative(spec, models, request).alone()


def check_fit(name: str, config: EvalConfig) -> None:
    """Raises ValueError for an arm whose verifier cannot decide its trees at one of the run's temperatures."""
    spec = drafting_spec(name, config)
    if spec is None:
        return
    drafting = parse_drafting(spec)
    for temperature in config.temperatures:
        try:
            check_pair(drafting.policy, drafting.verifier, Sampling(temperature), drafting.lookup)
        except ValueError as refusal:
            raise ValueError(f"arm '{name}': {refusal}") from None


def drafting_spec(name: str, config: EvalConfig) -> str | None:
    """`TREE+VERIFIER` of an arm that drafts with the head, None for the others."""
    spec = DRAFTING.get(name, name if "+" in name else None)
    return spec and spec.format(eagle3_tree=config.eagle3_tree, tree=config.tree, verifier=config.verifier)
