"""Sentences: when the stages run and where. The only place that imports prefect."""

import os

from flows.quiet import QUIET

for _name, _value in QUIET.items():  # prefect reads its settings once, when it is imported
    os.environ.setdefault(_name, _value)
