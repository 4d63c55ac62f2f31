"""Verbs: one file per stage, each runnable alone as `python -m tasks.<stage> <name>`."""
