"""Use a model folder: in other people's tools, and in stockpot."""
