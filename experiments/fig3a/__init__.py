"""Figure 3(a): accuracy and stability of activations against the scale alpha."""
