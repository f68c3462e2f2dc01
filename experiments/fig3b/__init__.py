"""Figure 3(b): networks, lazy networks and linearized networks beside fixed representations."""
