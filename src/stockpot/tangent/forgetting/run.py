"""What one does with forgetting: ``forget`` removes and certifies, ``verify`` checks."""

from stockpot.tangent.forgetting.audit import verify
from stockpot.tangent.forgetting.removal import Forgotten, evidence, forget

__all__ = ["Forgotten", "evidence", "forget", "verify"]
