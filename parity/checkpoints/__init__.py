"""Checkpoints of other tools (safetensors, torch.save, sharded), compared tensor by tensor in bounded memory."""
