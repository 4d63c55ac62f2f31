"""What several methods share, whatever they read: teachers, projections, contrast, health."""
