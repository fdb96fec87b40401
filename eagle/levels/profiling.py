"""Acceptance and cost of every pair, measured by decoding with that pair alone.

    answers   the target answers every prompt plainly; the answers are cut into contexts
    pairs     from every context each reader decodes a few tokens with each source as its only draft: what it accepts of
              a window is counted from round starts, on windows of the source, and rounds are timed by their phases
    plain     every model decodes a few tokens alone

All of it goes context by context, so that a machine that slows down slows every pair, and is kept line by line: killed
and started again, the same call measures what is missing.

Letters: n tokens of a window, a accepted tokens.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.drafters.protocol import Drafter
from eagle.engine.target import Target
from eagle.files import JsonLines, claim
from eagle.hierarchy.profiles import Profile
from eagle.hierarchy.renewal import Level
from eagle.judging import INDEPENDENT, VERIFIERS
from eagle.levels.building import build_drafter
from eagle.levels.loaded import Candidates, HeadDraft, load_candidates
from eagle.levels.pair_counts import summarise
from eagle.levels.rounds import PLAIN, Measured, Pair, Seen
from eagle.levels.specs import LOOKUP
from eagle.options import check_options, option
from eagle.sampling import Sampling, seeded
from eagle.seeds import stable_number
from eagle.timing import PhaseClock

# of the provenance: what rounds hang on
MADE_WITH = frozenset({"target", "head", "levels", "dtype", "loading", "device", "threads"})
DIGITS = 3  # digits of milliseconds that are kept


@dataclass(frozen=True)
class Prompt:
    """What an answer is asked for."""

    name: str
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """How much is measured. Raises ValueError for values outside their range."""

    temperature: float = option(0.0, "of the target; 0 is greedy", at_least=0, at_most=100)
    verifier: str = option(INDEPENDENT, "of the reader of every pair", choices=VERIFIERS)
    windows: tuple[int, ...] = option((4, 8, 12), "tokens asked for, in turn; no longer ones are planned", at_least=1)
    answer_tokens: int = option(96, "of the target's answer to a prompt", at_least=1)
    num_cuts: int = option(2, "contexts of an answer", at_least=1)
    num_tokens: int = option(32, "decoded from a context with every pair", at_least=2)
    seed: int = option(0, "of what is drawn")

    def __post_init__(self) -> None:
        check_options(self)


def profile(
    target: Target,
    candidates: Candidates | Sequence[str],
    contexts: Sequence[Prompt],
    options: ProfileOptions | None = None,
    folder: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, all_: None,
    provenance: Mapping[str, Any] | None = None,
) -> Profile:
    """What `eagle.hierarchy.plan` needs. `contexts` are prompts, `folder` keeps what was measured.

    `progress` hears of measured and of all contexts. Raises ValueError for no prompt, for candidates of another
    target, and where the folder holds a profile of other options.
    """
    if not isinstance(candidates, Candidates):
        candidates = load_candidates(target, candidates)
    if candidates.target is not target:
        raise ValueError("the candidates were loaded for another target: load them for this one")
    if not contexts:
        raise ValueError("contexts is empty: give at least one prompt")
    options = options or ProfileOptions()
    file = None
    if folder is not None:
        same = {name: value for name, value in (provenance or {}).items() if name in MADE_WITH}
        made_with = {"options": vars(options), "levels": candidates.texts, **same}
        claim(folder / "profile_options.json", made_with, "choose another --output")
        file = JsonLines(folder / "profile_rounds.jsonl")
    bench = _Bench(candidates, options)
    rows = list(_measure(bench, contexts, file, progress))
    return summarise(rows, candidates, [prompt.name for prompt in contexts], provenance or {})


def _measure(
    bench: "_Bench", prompts: Sequence[Prompt], file: JsonLines | None, progress: Callable[[int, int], None]
) -> Iterator[Measured]:
    known = [Measured.from_json(row) for row in file.read()] if file is not None else []
    done = {(row.pair, row.prompt, row.cut): row for row in known}
    for number, prompt in enumerate(prompts):
        for row in bench.prompt(prompt, number, done):
            if file is not None and (row.pair, row.prompt, row.cut) not in done:
                file.append(row.to_json())
            yield row
        progress(number + 1, len(prompts))


class _Bench:
    """Decodes with every pair from every context of a prompt."""

    def __init__(self, candidates: Candidates, options: ProfileOptions):
        self.candidates, self.options = candidates, options
        self.sampling = Sampling(options.temperature)
        self.pairs = [*(Pair(name, PLAIN) for name in candidates.readers()), *pairs_of(candidates)]
        self._warm: set[Pair] = set()

    def prompt(self, prompt: Prompt, number: int, done: Mapping[Any, Measured]) -> Iterator[Measured]:
        cuts = range(self.options.num_cuts)
        missing = [key for cut in cuts for pair in self.pairs if (key := (pair, prompt.name, cut)) not in done]
        answer = self._answer(prompt) if missing else []
        for cut in cuts:
            ids = [*prompt.ids, *answer[: cut * len(answer) // self.options.num_cuts]]
            for place, pair in enumerate(self.pairs):
                key = (pair, prompt.name, cut)
                yield done[key] if key in done else Measured(*key, self._rounds(pair, ids, number + cut + place))

    def _answer(self, prompt: Prompt) -> list[int]:
        options = DecodeOptions(self.sampling, self.options.answer_tokens)
        target = self.candidates.target
        steps = autoregressive(target, list(prompt.ids), options, self._draws(prompt.ids, PLAIN))
        return [token for step in steps for token in step.tokens if token not in target.end_token_ids]

    def _rounds(self, pair: Pair, ids: Sequence[int], turn: int) -> tuple[Seen, ...]:
        model = self.candidates.model(pair.reader)
        window = self.options.windows[turn % len(self.options.windows)]
        if len(ids) + self.options.num_tokens + 2 * window >= model.context_limit:
            return ()
        if pair not in self._warm:  # its first passes allocate
            self._warm.add(pair)
            tuple(self._decode(pair, list(ids), min(self.options.windows)))
        return tuple(self._decode(pair, list(ids), window))

    def _decode(self, pair: Pair, ids: list[int], window: int) -> Iterator[Seen]:
        model = self.candidates.model(pair.reader)
        heard: list[tuple[int, int]] = []
        clock = PhaseClock(model.device)
        options = DecodeOptions(self.sampling, self.options.num_tokens + window, self.options.verifier)
        drafter = self._drafter(pair, window, heard)
        steps = Session(model, drafter).decode(ids, options, self._draws(ids, pair.source), clock)
        next(steps)
        emitted = 0
        while emitted < self.options.num_tokens:  # the last window of an answer is never cut short
            before, begin = clock.seconds["draft"], time.perf_counter()
            step = next(steps, None)
            if step is None or not step.tokens:
                return
            ms, draft_ms = 1000 * (time.perf_counter() - begin), 1000 * (clock.seconds["draft"] - before)
            emitted += len(step.tokens)
            asked, kept = heard.pop() if heard else (0, 0)
            nodes = step.round.tree.num_nodes - 1 if step.round is not None else 0
            yield Seen(asked, kept, nodes, round(draft_ms, DIGITS), round(ms - draft_ms, DIGITS))

    def _drafter(self, pair: Pair, window: int, heard: list[tuple[int, int]]) -> Drafter | None:
        if pair.source == PLAIN:
            return None
        return _source(self.candidates, pair, window, lambda asked, kept: heard.append((asked, kept)))

    def _draws(self, ids: Sequence[int], name: str) -> Any:
        return seeded(stable_number(self.options.seed, name, tuple(ids)), self.candidates.target.device)


def _source(candidates: Candidates, pair: Pair, window: int, heard: Callable[[int, int], None]) -> Drafter:
    """The source as the only draft of its reader. A model drafts with its own head, which changes no law, if it has
    one: its windows come sooner."""
    own = candidates.members.get(pair.source)
    levels = [Level(pair.source, window)]
    if own is not None and own.head is not None:
        levels.insert(0, Level(HeadDraft(pair.source).name, window))
    told = {pair: heard}  # of this pair alone
    return build_drafter(candidates, tuple(levels), lambda *other: told.get(Pair(*other)), pair.reader)


def pairs_of(candidates: Candidates) -> list[Pair]:
    """Reader and source of everything that may stand on each other."""
    readers = candidates.readers()
    heads = [Pair(head.model, head.name) for head in candidates.heads()]
    models = [Pair(reader, source) for place, reader in enumerate(readers) for source in readers[:place]]
    lookups = [Pair(name, LOOKUP) for name in readers] if candidates.lookup is not None else []
    return [*heads, *lookups, *models]
