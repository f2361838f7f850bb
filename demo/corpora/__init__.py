"""Reproducible corpora in seven domains, built from pinned packages only."""
