"""Logs of scalars that other tools wrote (TensorBoard, CSV, JSON, text), read exactly and compared step by step."""
