"""Modules named as the papers name them; a mixer maps (B, C, H, W) to (B, C, H, W) and is built as `mixer(dim)`."""
