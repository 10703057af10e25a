"""Observes the tensors of training steps, and changes no bit of the training."""
