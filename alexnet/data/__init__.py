"""Data sets by name, decoding, augmentation, and the pipeline that makes batches of them."""
