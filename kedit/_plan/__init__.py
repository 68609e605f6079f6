"""Planning: all that is known about an edit before the tensor is there."""
