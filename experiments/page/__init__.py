"""The report: one self-contained page of every figure and table, made from result files only."""
