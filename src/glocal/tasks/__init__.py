"""What a backbone is trained for: losses, metrics, and the file that keeps the result."""
