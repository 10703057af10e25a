"""What the tensors of a training step say; changes no bit of the training."""
