"""Figure 2: how width and scale decide between learning features and laziness."""
