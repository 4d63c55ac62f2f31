"""What ingest is made of, and how later stages read what it wrote."""
