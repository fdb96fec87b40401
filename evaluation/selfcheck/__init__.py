"""Is what is about to be measured lossless? Asked before measuring."""
