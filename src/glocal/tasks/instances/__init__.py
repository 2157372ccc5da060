"""Instance segmentation: a box around each object, its class, and its mask."""
