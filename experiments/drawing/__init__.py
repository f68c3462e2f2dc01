"""How figures and tables look and how they are saved."""
