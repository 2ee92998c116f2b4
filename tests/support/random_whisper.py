"""Small Whisper models of random weights."""

import torch
from whisper.model import ModelDimensions, Whisper


def random_whisper(dims: ModelDimensions, std: float) -> Whisper:
    """Make a model whose weights are all normal around 0; the same for the same arguments."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Whisper(dims)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=std)  # the positions of the text come uninitialised
    return model.eval().requires_grad_(False)
