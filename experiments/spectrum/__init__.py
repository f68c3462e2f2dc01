"""Appendix C: singular values of the tangent features of a CNN, on images and on random pixels."""
