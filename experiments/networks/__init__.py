"""Networks by name, networks of the user's own, and the learning rate chosen for them."""
