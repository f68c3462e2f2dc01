"""The engine of `tangent.kernel`: factors of every layer, contractions, cost model, blocks."""
