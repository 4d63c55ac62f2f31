"""Verbs: one file per stage, each runnable alone as `python -m tasks.<stage> <name>`."""

import os

# Threads that wait for each other by spinning fight with whatever else runs on the machine: beside
# one busy process, two threads train 7 times faster asleep than spinning. OpenMP reads this once,
# when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
