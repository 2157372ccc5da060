"""What the tasks of labels for whole images share: `classification` and `multilabel` are built on it."""
