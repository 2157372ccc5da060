"""Detection: a box around each object, and its class."""
