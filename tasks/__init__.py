"""Verbs: one file per stage, each runnable alone as `python -m tasks.<stage> <name>`."""

import os

# Threads that wait for each other by spinning fight with whatever else runs on the machine, and
# threads that sleep at once are slow to wake. Two threads, a step of I-JEPA with a tiny transformer:
# asleep at once 0.21 s, after this much spinning 0.10, always spinning 0.08; beside one busy process
# 0.12, 0.28 and 1.0. OpenMP reads this once, when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# Whom `make ui` has its servers ask for, by the names under which MLflow's client looks for it.
if "UNMASK_USER" in os.environ and "UNMASK_PASSWORD" in os.environ:
    os.environ.setdefault("MLFLOW_TRACKING_USERNAME", os.environ["UNMASK_USER"])
    os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", os.environ["UNMASK_PASSWORD"])
