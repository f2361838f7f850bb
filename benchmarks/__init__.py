"""Ratios against baselines in the same run; one command each, results in `results/`."""
