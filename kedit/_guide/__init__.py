"""Where outputs should be, and the cost if they are not there."""
