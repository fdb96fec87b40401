"""What lossless means, as code: enumeration of drafts and verdicts."""
