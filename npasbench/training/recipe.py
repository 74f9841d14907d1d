"""A card's recipe as torch objects: optimizer, schedule, criterion, autocast."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from npasbench.card import Recipe


def make_optimizer(groups: Sequence[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW over a method's parameter groups."""
    one = recipe.optimizer
    if one.name == "sgd":
        return torch.optim.SGD(
            list(groups), lr=one.lr, momentum=one.momentum, nesterov=one.nesterov, weight_decay=one.weight_decay
        )
    return torch.optim.AdamW(list(groups), lr=one.lr, weight_decay=one.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> lr_scheduler.LRScheduler:
    """The learning rate over all optimizer steps; the one-cycle schedule leaves momentum alone."""
    schedule, steps = recipe.schedule, recipe.epochs * steps_per_epoch
    if schedule.name == "one-cycle":
        return lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.optimizer.lr, total_steps=max(steps, 2), cycle_momentum=False
        )
    warmup = schedule.warmup * steps_per_epoch
    main: lr_scheduler.LRScheduler
    if schedule.name == "cosine":
        main = lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(steps - warmup, 1))
    elif schedule.name == "steps":
        milestones = [epoch * steps_per_epoch - warmup for epoch in schedule.at]
        main = lr_scheduler.MultiStepLR(optimizer, milestones, gamma=schedule.factor)
    else:
        main = lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    if not warmup:
        return main
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, main], milestones=[warmup])


def make_criterion(recipe: Recipe) -> nn.CrossEntropyLoss:
    """Cross-entropy with the recipe's label smoothing, averaged over the batch."""
    return nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)


def autocast(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 autocast where the recipe asks for it, else nothing."""
    if recipe.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def place(network: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """The network on its device, in the recipe's memory format."""
    network = network.to(device)
    return network.to(memory_format=torch.channels_last) if recipe.memory_format == "channels-last" else network


def format_inputs(inputs: Tensor, recipe: Recipe) -> Tensor:
    """Inputs in the recipe's memory format."""
    if recipe.memory_format == "channels-last" and inputs.dim() == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs
