"""One command line that regenerates every figure and table of the paper."""
