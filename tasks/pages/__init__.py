"""The page at the end of a run: what is read, what is said about it, how it is drawn."""
