"""The tests' recipes name functions of the tests, which are no files beside them."""

import os

os.environ.setdefault("STOCKPOT_ALLOW_CODE", "1")
