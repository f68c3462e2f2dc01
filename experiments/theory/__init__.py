"""Theorems 2.2 to 2.5, Proposition A.1 and the law of kappa (Chizat, Oyallon and Bach 2019)."""
