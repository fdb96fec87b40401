"""Lossless verification of draft trees: tensors in, an exact law or one verdict out. Needs torch alone.

`law(tree, target_probs, verifier)` is the exact law of a verifier's outcome, `verify` one draw from it, `verify_chosen`
what it comes to at temperature 0, `law_batch` and `verify_batch` the same for padded trees, `VERIFIERS` the verifiers,
`DraftTree` what was drafted and how, and `hsd_verify.exact.enumerate` the definition of lossless, as code.
"""

from hsd_verify.batch import law_batch, verify_batch
from hsd_verify.exact import enumerate
from hsd_verify.outcome import Law, Verdict
from hsd_verify.tree import DraftTree
from hsd_verify.verifiers import VERIFIERS, law, verify
from hsd_verify.walk import verify_chosen

__all__ = [
    "VERIFIERS",
    "DraftTree",
    "Law",
    "Verdict",
    "enumerate",
    "law",
    "law_batch",
    "verify",
    "verify_batch",
    "verify_chosen",
]
