"""Sentences: when the stages run and where. The only place that imports prefect."""
