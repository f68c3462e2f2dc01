"""What single precision does to lazy training, with a subtraction and without."""
