"""DINO, part by part in the order of its forward pass: `head.py` puts them together."""
