"""Is a network lazy on this data? The report of `tangent.laziness`, of any network by name."""
