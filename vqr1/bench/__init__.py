"""Measurements of the product: training, rollouts, whole runs, and everything only a GPU can say."""
