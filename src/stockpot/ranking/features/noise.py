"""Whether a network was ever trained: whether its matrices are more than noise.

The largest singular value of an (n, m) matrix W of independent entries lies at
``|W|_F (1 / sqrt(n) + 1 / sqrt(m))`` (Marchenko and Pastur 1967), whatever their distribution, and
that of an orthogonal one below. Training adds directions of its own, far above: in trained networks
three matrices of four and more have one, in initialised ones hardly any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

_EDGE = 1.05  # singular values this far above that of noise are no accident
_SHARE = 0.1  # of matrices, that an initialisation may have above it all the same
_LEAST_ROWS, _LEAST_MATRICES, _MOST_MATRICES = 16, 2, 32


def is_untrained(network: nn.Module) -> bool:
    """Whether the linear maps and convolutions of a network are those of an initialisation.

    Looks at the smallest matrices of at least 16 rows and columns, 32 of them at most; false where
    there are fewer than two.
    """
    from torch import nn

    matrices = [
        weight.detach().flatten(1)
        for module in network.modules()
        if not isinstance(module, nn.Embedding)
        for weight in [getattr(module, "weight", None)]
        if isinstance(weight, nn.Parameter) and weight.ndim >= 2 and weight.is_floating_point()
    ]
    wide = [matrix for matrix in matrices if min(matrix.shape) >= _LEAST_ROWS]
    some = sorted(wide, key=lambda matrix: min(matrix.shape))[:_MOST_MATRICES]
    if len(some) < _LEAST_MATRICES:
        return False
    above = [above_noise(matrix.cpu().double().numpy()) > _EDGE for matrix in some]
    return bool(np.mean(above) < _SHARE)


def above_noise(matrix: np.ndarray) -> float:
    """Largest singular value of ``(n, m)`` over that of noise of its shape and norm; 0 for 0."""
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows < columns else matrix.T @ matrix
    norm = float(np.sqrt(np.trace(gram)))
    if norm == 0.0:
        return 0.0
    largest = float(np.sqrt(np.linalg.eigvalsh(gram)[-1]))
    return float(largest / norm / (rows**-0.5 + columns**-0.5))
