"""Losses that import a helper from wherever a host has it, by a name that is not in their text: it does not travel."""

import importlib

import torch


def one(output, target):
    return torch.nn.functional.mse_loss(output, target) * importlib.import_module("one_" + "helper").FACTOR


def other(output, target):
    return torch.nn.functional.mse_loss(output, target) * importlib.import_module("other_" + "helper").FACTOR
