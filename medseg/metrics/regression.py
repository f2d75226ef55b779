"""How well the numbers of a map were predicted, over the pixels that truth and prediction know.

Source: the definitions are this project's own. Differs: errors are told in standard deviations of
the truth, so that targets of any unit stand side by side.
"""

import numpy as np
from jaxtyping import Float

METRICS = ("nrmse", "correlation", "bias", "covered")
"""The score columns of predicted maps of numbers."""

DEFINITIONS = {
    "nrmse": "root mean square error over the truth's standard deviation, over the pixels that "
    "truth and prediction know; predicting the truth's own mean gives 1",
    "correlation": "Pearson's, over the same pixels",
    "bias": "mean error over the truth's standard deviation, over the same pixels",
    "covered": "share of the truth's known pixels for which there is a prediction; what is left "
    "out, such as the sky beyond a footprint, counts in no other number",
    "failed": "no usable prediction: scored as the truth's own mean (NRMSE 1, correlation 0), "
    "covered 0",
    "interval": "95 % percentile bootstrap, 2000 draws of whole subjects (of cases where no "
    "subject is known)",
}

Row = dict[str, float | str | None]


def score_numbers(found: Float[np.ndarray, " n"] | None, truth: Float[np.ndarray, " n"]) -> Row:
    """The scores of one target; NaN is not known, and None is no prediction.

    A truth that is the same everywhere has no errors in its deviations: None.
    """
    known = np.isfinite(truth)
    if found is None:
        told: Row = {"nrmse": 1.0, "correlation": 0.0, "bias": None, "covered": 0.0}
        return {**told, "status": "failed"}
    both = known & np.isfinite(found)
    ours, theirs = (row[both].astype(np.float64) for row in (found, truth))
    error, spread = ours - theirs, float(theirs.std())
    row: Row = dict.fromkeys(METRICS)
    row |= {"covered": float(both.sum() / known.sum()), "status": "ok"}
    if spread > 0:
        row |= {"nrmse": float(np.sqrt(np.square(error).mean()) / spread)}
        row |= {"bias": float(error.mean() / spread)}
        if ours.std() > 0:
            row["correlation"] = float(np.corrcoef(ours, theirs)[0, 1])
        else:
            row["correlation"] = 0.0
    return row
