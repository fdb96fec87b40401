"""The draft vocabulary: the target's tokens that answers use most, and a record of where the counts came from.

Letters: V target vocabulary, Vd draft vocabulary.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eagle.data.conversations import TokenRow
from eagle.files import atomic_file
from eagle.vocab import DraftVocabulary

REMEDY = "build it again with `eagle-hsd prepare`"


@dataclass(frozen=True)
class TokenCounts:
    """How often each target token stands in an answer, and in which data."""

    counts: Tensor  # (V,) int64, over assistant spans
    num_rows: int
    data_sha256: str  # of the rows' ids and tokens, whatever their order


@dataclass(frozen=True)
class Provenance:
    """What a draft vocabulary was made from; stored with it and compared when it is used."""

    target: str
    vocab_size: int
    draft_vocab_size: int
    data: str
    data_sha256: str
    num_rows: int
    num_tokens: int
    coverage: float  # share of the counted tokens that the draft vocabulary holds


def count_tokens(rows: Iterable[TokenRow], vocab_size: int) -> TokenCounts:
    """Counts over the answers of ``rows``. Raises ValueError for tokens beyond the target's vocabulary."""
    counts, num_rows, digest = torch.zeros(vocab_size, dtype=torch.int64), 0, 0
    for row in rows:
        answers = torch.tensor(row.input_ids)[row.loss_mask]  # (A,)
        if max(row.input_ids) >= vocab_size:
            raise ValueError(
                f"row {row.id} holds token {max(row.input_ids)}, the target has {vocab_size}: other target?"
            )
        counts += torch.bincount(answers, minlength=vocab_size)
        digest += int.from_bytes(
            hashlib.sha256(f"{row.id} {row.input_ids}".encode()).digest(), "big"
        )  # a sum, so that order does not matter
        num_rows += 1
    return TokenCounts(counts, num_rows, f"{digest % 2**256:064x}")


def coverage(counts: Tensor, draft_vocab_size: int) -> float:
    """Share of the counted tokens that the ``draft_vocab_size`` most frequent ones make up."""
    return float(counts.topk(draft_vocab_size).values.sum() / counts.sum())


def build_vocabulary(counts: Tensor, draft_vocab_size: int, always: Iterable[int] = ()) -> DraftVocabulary:
    """The ``draft_vocab_size`` most frequent tokens of ``counts`` (V,); ``always`` (ends of turn) are among them.

    Equal counts are settled by the lower id. Raises ValueError when fewer distinct tokens were counted than asked for:
    the remainder would be tokens the data knows nothing of.
    """
    if not counts.any():
        raise ValueError("there is no answer to count tokens of: prepare some first")
    ranked = counts.clone()
    ranked[list(always)] = counts.sum() + 1
    distinct = int((ranked > 0).sum())
    if not 0 < draft_vocab_size <= distinct:
        raise ValueError(
            f"draft_vocab_size is {draft_vocab_size}, the answers hold {distinct} distinct tokens of {len(counts)}: "
            f"choose 1 to {distinct}, or prepare more data"
        )
    chosen = ranked.argsort(descending=True, stable=True)[:draft_vocab_size].sort().values  # (Vd,)
    return DraftVocabulary.from_target_ids(chosen, len(counts))


def provenance_of(vocabulary: DraftVocabulary, counted: TokenCounts, target: str, data: str) -> Provenance:
    total = int(counted.counts.sum())
    return Provenance(
        target=target,
        vocab_size=len(vocabulary.t2d),
        draft_vocab_size=len(vocabulary.d2t),
        data=data,
        data_sha256=counted.data_sha256,
        num_rows=counted.num_rows,
        num_tokens=total,
        coverage=int(counted.counts[vocabulary.t2d].sum()) / total,
    )


def save_vocabulary(path: Path, vocabulary: DraftVocabulary, provenance: Provenance) -> None:
    """One small safetensors file: ``d2t``, ``t2d`` and the provenance in its header."""
    header = {"provenance": json.dumps(asdict(provenance))}
    with atomic_file(path) as temporary:
        save_file({"d2t": vocabulary.d2t, "t2d": vocabulary.t2d}, temporary, metadata=header)


def load_vocabulary(path: Path, target: str, vocab_size: int) -> tuple[DraftVocabulary, Provenance]:
    """The vocabulary at ``path``; ValueError when it is damaged, or made for another target or vocabulary size."""
    try:
        with safe_open(path, framework="pt") as file:
            provenance = _read_provenance(path, file.metadata() or {})
            vocabulary = DraftVocabulary(file.get_tensor("d2t"), file.get_tensor("t2d"))
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole draft vocabulary ({error}): {REMEDY}") from None
    if (provenance.target, provenance.vocab_size) != (target, vocab_size):
        raise ValueError(
            f"{path} is for target {provenance.target} with {provenance.vocab_size} tokens, "
            f"this is {target} with {vocab_size}: build the vocabulary from this target's answers"
        )
    vocabulary.check_sizes(provenance.draft_vocab_size, vocab_size)
    return vocabulary, provenance


def _read_provenance(path: Path, header: dict[str, str]) -> Provenance:
    try:
        values = json.loads(header["provenance"])
        return Provenance(**{field.name: values[field.name] for field in fields(Provenance)})
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} says nothing of its origin: {REMEDY}") from None


def check_data(provenance: Provenance, counted: TokenCounts) -> None:
    """Raises ValueError when the vocabulary was counted on other rows than ``counted``."""
    if provenance.data_sha256 != counted.data_sha256:
        raise ValueError(
            f"the vocabulary was counted on {provenance.num_rows} rows of {provenance.data}, the data now has "
            f"{counted.num_rows}: build it again, or keep it only to go on with a head that has it"
        )
