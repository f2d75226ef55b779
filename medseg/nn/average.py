"""The moving average of a network's weights, which generalises better than the last ones."""

from torch import nn


class Average:
    """The moving average of a network's weights; early on it forgets faster.

    Source: Polyak and Juditsky 1992, in the exponential form, decay min(d, (1 + t) / (10 + t)).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: v.detach().clone() for name, v in model.state_dict().items()}

    def follow(self, model: nn.Module, step: int) -> None:
        """One step towards the weights as they are; whole numbers are taken over."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            kept = self.state[name] = self.state[name].to(value.device)
            if kept.is_floating_point():
                kept.lerp_(value.detach(), share)
            else:
                kept.copy_(value)

    def swap(self, model: nn.Module) -> None:
        """The average into the network and its own weights here, or back."""
        own = {name: v.detach().clone() for name, v in model.state_dict().items()}
        model.load_state_dict(self.state)
        self.state = own
