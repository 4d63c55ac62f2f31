"""What objectives over recordings of speech share."""
