"""Sound: recordings read from files, turned to log-mel filter banks, and mixed with noise and reverberation to train.

Filter banks float32 [1, bins, frames] stand where an image [C, H, W] stands elsewhere; their values are no pixels.
"""
