"""Two models of one hierarchy must mean the same by a token: vocabularies are compared, not their sizes."""

from eagle.engine.target import Target


def check_same_tokens(target: Target, level: Target, name: str) -> int:
    """How many tokens there are; a model's rows behind them are padding. Raises ValueError for other tokenizers."""
    own, other = vocabulary(target), vocabulary(level)
    if own == other:
        return max(own.values()) + 1
    different = sorted({token for token, _ in own.items() ^ other.items()}, key=lambda token: own.get(token, 1 << 40))
    raise ValueError(
        f"level '{name}' ({level.name}) has another tokenizer than {target.name}: {len(different):,} tokens are not "
        f"the same in both, as {different[0]!r} ({_told(own, different[0])} there, {_told(other, different[0])} here): "
        "take a model of the target's family; ids of another tokenizer mean other text"
    )


def vocabulary(target: Target) -> dict[str, int]:
    """Token -> id, added ones too. Raises ValueError for a model without a tokenizer."""
    if target.tokenizer is None:
        raise ValueError(f"{target.name} has no tokenizer: whether it fits cannot be said; load it with its tokenizer")
    return dict(target.tokenizer.get_vocab())


def _told(ids: dict[str, int], token: str) -> str:
    return f"id {ids[token]}" if token in ids else "none"
