"""The non-learned competitors at full strength: accuracy against features and training images."""
