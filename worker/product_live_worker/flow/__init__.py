"""The three stages, which meet only in the journal, and what they calculate with."""
