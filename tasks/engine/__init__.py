"""The training engine: one loop for every objective. Needs torch alone; knows no method and no tool."""
