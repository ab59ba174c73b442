"""Do these weights belong together: names, ancestry, angles, sign conflict, a verdict and why."""

from stockpot.inspection.compare import compare
from stockpot.inspection.lineage import Lineage, check_lineage
from stockpot.inspection.result import Inspection

inspect = compare
"""The command's word for it."""

__all__ = ["Inspection", "Lineage", "check_lineage", "compare", "inspect"]
