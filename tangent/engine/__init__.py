"""Parts of the tangent kernel engine; the public names are in `tangent.kernel` and around it."""
