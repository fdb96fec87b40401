"""What a target in two parts reads and writes, as one file: run by `test_tensor_parallel` on two processes.

torchrun --nproc_per_node 2 tests/parallel/in_parts.py TARGET OUTPUT
"""

import gc
import json
import sys

import torch

from eagle.decode import Session, autoregressive
from eagle.engine.masks import ancestor_matrix
from eagle.loading import load_target
from eagle.sampling import seeded
from tests.parallel.texts import IDS, LONGER, OPTIONS, SEED, drafter
from tests.tiny import tokens_of


def refusal(ask) -> str:
    try:
        ask()
    except ValueError as error:
        return str(error)
    return ""


def main(source: str, output: str) -> None:
    target = load_target(source, torch.float32, tp=2)
    found: dict = {"texts": {}}
    for name, options in OPTIONS.items():
        session = Session(target, drafter(name, target))
        other = Session(target, drafter(name, target))
        steps = session.decode(IDS, options, seeded(SEED))
        first = [next(steps), next(steps)]
        between = tokens_of(other.decode(LONGER[:5], options, seeded(SEED)))  # two caches at once
        found["texts"][name] = [
            tokens_of([*first, *steps]),
            between,
            tokens_of(session.decode(LONGER, options, seeded(SEED))),  # reads on behind what both texts share
            tokens_of(autoregressive(target, IDS, options, seeded(SEED))),
        ]
        del session, other, steps
    gc.collect()
    cache = target.new_cache()
    read = target.prefill(torch.tensor(IDS), cache)
    scored = target.forward_tree(torch.tensor([5, 6, 7, 8]), ancestor_matrix([-1, 0, 0, 2]), cache)
    ids = torch.tensor([IDS, LONGER[: len(IDS)]])
    features, states = target.read_states(ids)
    logits = target.read(ids, logits_to_keep=3).logits
    outputs = (read.features, read.logits, scored.features, scored.logits, features, states, logits, target.embed(ids))
    found["outputs"] = [value.double().tolist() for value in outputs]
    found["why"] = target.explain_bad_logits(IDS)
    found["alone"] = [refusal(lambda: target.model(ids)), refusal(lambda: target.model.lm_head(states))]
    with open(output, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
