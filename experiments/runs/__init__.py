"""Runs of an experiment: computed once each, here or by the workers of an executor."""
