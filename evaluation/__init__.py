"""Scores of infrared small-target detection. NumPy, SciPy and scikit-image only.

`Evaluator` gathers them. The pieces are pure functions, counts first and scores from counts:
`pixel` (IoU, F-score), `pd_fa` (regions, matching, Pd and Fa), `hiou`, `roc`, and `operating`
(Pd against Fa, the threshold for a wanted Fa), and `sizes` (targets by their area).
"""

from .evaluator import THRESHOLD, Evaluator

__all__ = ["THRESHOLD", "Evaluator"]
