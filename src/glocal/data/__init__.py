"""Reading images, describing data sets, and feeding them to a model."""
