"""Reinforcement learning to rank for image quality."""

__version__ = "0.2.0"
