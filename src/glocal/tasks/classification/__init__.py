"""One label for each image."""
