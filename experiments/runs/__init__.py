"""Runs: what they return, how they are planned, estimated and computed."""
