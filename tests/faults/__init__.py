"""Faults: what is killed, damaged or short of room ends with the same bits or says why not."""
