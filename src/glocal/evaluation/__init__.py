"""Measuring a trained model: one measurement for every task, its plots, and comparisons."""
