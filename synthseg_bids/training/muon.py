"""The Muon optimiser: updates with equal singular values.

For the weights of convolutions the momentum is orthogonalised (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon): a quintic Newton-Schulz iteration moves all singular
values of the update close to 1. Biases, normalisations and the output layer are left to Adam.
PyTorch's own Muon refuses 5D weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..hardware.device import fast_dtype

#: Coefficients and number of the iterations.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
#: Size of Muon's steps relative to Adam's, and Nesterov momentum of Muon.
FACTOR, MOMENTUM = 4.0, 0.95
#: Decay rates of Adam.
BETAS = (0.9, 0.999)


@torch.no_grad()
def orthogonalise(matrix: Tensor) -> Tensor:
    """Move the singular values of a matrix close to 1 (between about 0.7 and 1.2).

    Parameters
    ----------
    matrix : (m, n) tensor

    Returns
    -------
    (m, n) tensor
        In bfloat16 where that is fast: the iterations need no more precision.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).to(fast_dtype(matrix.device))
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Muon for the weights of convolutions, Adam for all else.

    Parameters
    ----------
    network : Module
        Its 5D parameters, except those of the output layer, are given to Muon.
    lr : float
        Adam's step. A Muon step is :data:`FACTOR` times as large, relative to the initial size of
        a weight.
    output_layer : Module
        Left to Adam.
    """

    def __init__(self, network: nn.Module, lr: float, output_layer: nn.Module) -> None:
        left = {id(p) for p in output_layer.parameters()}
        matrices = [p for p in network.parameters() if p.ndim == 5 and id(p) not in left]
        chosen = {id(p) for p in matrices}
        others = [p for p in network.parameters() if id(p) not in chosen]

        groups = [{'params': matrices, 'muon': True}, {'params': others, 'muon': False}]
        super().__init__(groups, {'lr': lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients."""
        for group in self.param_groups:
            update = self._muon if group['muon'] else self._adam
            for weight in group['params']:
                if weight.grad is not None:
                    update(weight, weight.grad, group['lr'])

    def _muon(self, weight: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[weight]
        if not state:
            state['momentum'] = torch.zeros_like(weight)
            # Singular values of an orthogonal matrix with the norm of the initial weights.
            rank = min(len(weight), weight[0].numel())
            state['size'] = weight.norm() / rank**0.5
        average = state['momentum'].lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalise(gradient.lerp(average, MOMENTUM).flatten(1))
        update = update.to(weight.dtype).view_as(weight) * state['size']
        weight.sub_(update, alpha=lr * FACTOR)

    def _adam(self, weight: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[weight]
        if not state:
            state['mean'], state['square'] = torch.zeros_like(weight), torch.zeros_like(weight)
            state['step'] = torch.zeros(())
        state['step'] += 1
        n = int(state['step'])
        b1, b2 = BETAS
        state['mean'].lerp_(gradient, 1 - b1)
        state['square'].mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        denominator = (state['square'] / (1 - b2**n)).sqrt_().add_(1e-8)
        weight.addcdiv_(state['mean'], denominator, value=-lr / (1 - b1**n))
