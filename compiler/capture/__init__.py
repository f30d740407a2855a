"""Capture: the only code that imports Paddle."""
