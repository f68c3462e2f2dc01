"""Non-learned competitors: random features, scattering, infinite-width kernels."""
