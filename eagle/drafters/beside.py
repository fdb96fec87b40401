"""Lookup beside a head: what followed the end of the text before, and how far that is to be believed in this text.

    text       .. a b c d e .. a b c        a match of n = 3 tokens
    scaffold   d e ..                       d is believed as other matches of 3 tokens turned out, e as those of 4, ..

The text counts for itself: whenever a token becomes known, the match before it has come true or not. So a text that
does not repeat itself soon has no scaffold, and one that does has long ones. Everything here is a function of the known
text, never of what was drafted.

Letters: n tokens of a match.
"""

from collections import Counter

from eagle.drafters.lookup import LookupDrafter
from eagle.trees.scaffold import EMPTY, Scaffold

# chosen on held-out prompts, where tau hardly tells them from their neighbours: docs/trees.md
LONGEST = 16  # longer matches count as this long
PRIOR_MISSES = 2  # a match of n tokens is believed from the start as if n of n + 2 had come true,
PRIOR_WEIGHT = 8  # with the weight of so many that were counted
LEAST_VALUE = 0.1  # a token that the target takes with less than that is not worth a node


class LookupBeside:
    """Tells a lookup the text and gives the scaffold of a round. The lookup is this object's own from then on.

    Raises ValueError for a lookup that knows a text already.
    """

    def __init__(self, lookup: LookupDrafter):
        if lookup.num_known:
            raise ValueError(f"the lookup knows {lookup.num_known} tokens of another text: give each drafter its own")
        self._lookup = lookup
        self._tried: Counter[int] = Counter()  # n -> matches of so many tokens
        self._came: Counter[int] = Counter()  # n -> those whose token was the one that came

    def observe(self, tokens: list[int]) -> None:
        """Tokens that became known."""
        for token in tokens:
            match = self._lookup.match(LONGEST)
            if match is not None:
                n = min(match.length, LONGEST)
                self._tried[n] += 1
                self._came[n] += match.token == token
            self._lookup.add(token)

    def truncate(self, num_tokens: int) -> None:
        """Forget all but the first `num_tokens` known tokens, and what the others told."""
        text = self._lookup.text
        if num_tokens < len(text):
            self._lookup.truncate(0)
            self._tried.clear()
            self._came.clear()
            self.observe(text[:num_tokens])

    def acceptance(self, length: int) -> float:
        """Probability that the token behind a match of `length` tokens is the one that comes."""
        n = min(length, LONGEST)
        prior = n / (n + PRIOR_MISSES)
        return (self._came[n] + PRIOR_WEIGHT * prior) / (self._tried[n] + PRIOR_WEIGHT)

    def scaffold(self) -> Scaffold:
        """What the text suggests behind its end, as far as it is worth a node."""
        match = self._lookup.match(LONGEST)
        if match is None:
            return EMPTY
        value, steps = 1.0, []
        for place, token in enumerate(self._lookup.continuation(self._lookup.length)):
            acceptance = self.acceptance(match.length + place)
            value *= acceptance
            if value < LEAST_VALUE:
                break
            steps.append((token, acceptance))
        return Scaffold(tuple(token for token, _ in steps), tuple(acceptance for _, acceptance in steps))
