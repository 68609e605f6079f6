"""Where outputs should be, and what it costs that they are not."""
