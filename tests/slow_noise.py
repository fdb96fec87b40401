"""The noise field again, by its definition in numpy's unsigned integers: a word for every place, no group looked at
twice. Slow for one row of a large vocabulary, fast for a few tokens at a million positions.

Letters: P positions, n tokens.
"""

import numpy as np

U = np.uint64
GAMMA = U(0x9E3779B97F4A7C15)
FIRSTS = U(1 << 40)


def splitmix64(state):
    """The number that SplitMix64 gives next in a state, after Steele, Lea and Flood 2014; wraps at 64 bits."""
    with np.errstate(over="ignore"):
        z = np.asarray(state, U) + GAMMA
        z = (z ^ (z >> U(30))) * U(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> U(27))) * U(0x94D049BB133111EB)
        return z ^ (z >> U(31))


def words(key: int, positions, places):
    """Random words (P, n) of places (n,) in the streams of positions (P,)."""
    rows = splitmix64(splitmix64(splitmix64(U(key))) ^ splitmix64(np.asarray(positions, U)))
    with np.errstate(over="ignore"):
        before = np.asarray(places, U) * GAMMA - GAMMA
        return splitmix64(rows[:, None] + before)


def exponential(random_words):
    uniform = np.minimum(((random_words >> U(6)).astype(np.float64) + 0.5) * 2.0**-58, 1 - 2.0**-53)
    return -np.log1p(-uniform)


def races(key: int, positions, tokens):
    """E (P, n) float64: the least of each 64 tokens at a token that the word's last bits name, others behind it."""
    tokens = np.asarray(tokens, U)
    of_group = words(key, positions, (tokens >> U(6)) + FIRSTS)
    waits = exponential(words(key, positions, tokens))
    return exponential(of_group) / 64 + np.where((of_group & U(63)) == (tokens & U(63)), 0.0, waits)


def winners(key: int, positions, tokens, log_law):
    """Which of the tokens (n,), by its number in the list, has the largest `log_law` (n,) + g: (P,)."""
    return (np.asarray(log_law) - np.log(races(key, positions, tokens))).argmax(-1)
