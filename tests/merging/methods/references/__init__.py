"""Every merge method once more, as plainly as its paper: float64, whole tensors, sorted, no blocks.

A reference takes ``(base, models, **parameters)`` and returns a state; states are dicts of float64
arrays. ``REFERENCES`` maps the name of a method to it.
"""

from __future__ import annotations

from . import matrices, sparse, sphere, weighted

REFERENCES = {
    **weighted.REFERENCES,
    **sparse.REFERENCES,
    **sphere.REFERENCES,
    **matrices.REFERENCES,
}
