"""Measurements: training, rollouts, work-arounds, and all that only a GPU can say. Nothing imports this package."""
