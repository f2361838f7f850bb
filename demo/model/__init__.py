"""Helpers of the demo model's training script."""
