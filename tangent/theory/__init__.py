"""The theorems: their bounds, gradient flows of small models, two-layer students, closed forms."""
