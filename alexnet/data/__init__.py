"""Data sets by name, decoding, augmentation, and the pipeline that turns them into batches."""
