"""Nouns: encoders, objectives, masks. Needs torch and transformers, nothing else."""
