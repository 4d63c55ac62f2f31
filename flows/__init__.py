"""Sentences: when the stages run and where. The only place that imports prefect."""

import os

from flows.access import credentials
from flows.quiet import QUIET

for _name, _value in {**QUIET, **credentials()}.items():  # prefect reads its settings once, when imported
    os.environ.setdefault(_name, _value)
