"""What these tests leave behind stays in their temporary folder."""

from tests.training.conftest import elsewhere

__all__ = ["elsewhere"]
