"""Run a set of jobs: in this process or on several, resumable, each finished job once."""

from stockpot.execution.backends import Local, Serial, make_backend
from stockpot.execution.cluster import Ray
from stockpot.execution.job import Arguments, Backend, Job, in_order
from stockpot.execution.run import run_all, run_jobs

__all__ = [
    "Arguments",
    "Backend",
    "Job",
    "Local",
    "Ray",
    "Serial",
    "in_order",
    "make_backend",
    "run_all",
    "run_jobs",
]
