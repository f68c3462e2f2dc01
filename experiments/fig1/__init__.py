"""Figure 1: a two-layer network leaves the lazy regime as its initialization shrinks."""
