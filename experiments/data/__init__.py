"""Data sets as arrays with a fingerprint: read from files that nobody vouches for, kept decoded."""
