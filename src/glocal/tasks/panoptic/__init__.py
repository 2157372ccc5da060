"""Panoptic segmentation: a class and an object for every pixel."""
