"""The version; it goes into everything that is written, and into the names of jobs."""

VERSION = "0.1.0"
