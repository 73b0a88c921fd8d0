"""Reinforcement learning to rank for image quality."""

__version__ = "0.1.0"
