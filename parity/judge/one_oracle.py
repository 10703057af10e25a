"""Whether two runs that were each audited against a loss of its own were audited against the same one.

Letters: S steps that both traces have.
"""

import numpy as np

from parity.judge.differences import Comparison
from parity.plan import lines


def one_oracle(comparison: Comparison) -> np.ndarray:
    """Whether two losses of equal outputs are so near that both can be right for the same float64 loss; bool[S].

    Each loss is off from its own oracle by its audit error; the norm of a gradient also by the rounding of its sum.

    Args:
        comparison: The two traces; steps whose outputs differ say nothing.

    Raises:
        Trouble: A trace is damaged.
    """
    dtype = comparison.baseline.record.loss_dtype
    # The exponent is the number of significant bits, the implicit one included; an unknown dtype counts as float32.
    u = 2.0 ** -{"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}.get(dtype or "", 24)
    near = np.ones(comparison.steps, bool)
    for value, error_u in (("loss", "loss_error_u"), ("output_grad_norm", "grad_error_u")):
        (left, right), errors_u = comparison.both(value), sum(comparison.both(error_u))
        with np.errstate(invalid="ignore", over="ignore"):
            # False for a NaN, so a step without an audit is not evidence of one oracle.
            limit = (errors_u + lines.NORM_ERROR.value) * u * np.maximum(np.abs(left), np.abs(right))
            near &= np.abs(left - right) <= limit
    return near
