"""Put on the path as ``sitecustomize``: hides the packages named in ``HIDDEN_PACKAGES``.

They are then absent for imports and for ``find_spec``, as if they had never been installed, in this
process and in every one that it starts.
"""

import os
import sys

_HIDDEN = frozenset(os.environ.get("HIDDEN_PACKAGES", "").split(","))


class _Hiding:
    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in _HIDDEN:
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)


sys.meta_path[:] = [_Hiding(finder) for finder in sys.meta_path]
