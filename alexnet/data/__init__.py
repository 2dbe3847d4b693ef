"""From a data set's name to batches: sources, decoding, augmentation and the pipeline."""
