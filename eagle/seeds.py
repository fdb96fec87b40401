"""Seeds that outlive order, resuming and sharding: functions of names, not of what was drawn before."""

import hashlib


def stable_number(*parts: object) -> int:
    """A number in [0, 2**63) that depends on nothing but the text of `parts`, on any machine and in any process.

    Its values are kept for good: which conversations are held out, and in which order prompts are answered, follow
    from them.
    """
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
