"""Runs: what one returns, the files that keep it, who computes it, on which machine."""
