"""What is planned: all that is known of an edit before the tensor is there."""
