"""The paper's meta-gradient in PyTorch: its first call in a process, for `first_call`.

A process without TensorFlow, since not all builds of both can be loaded together. It is given
`Problem` as JSON in its command line, and prints `{"seconds", "later", "megabytes"}`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """A network of `pytorch_networks`, and data in the shape `inputs` of a sample, of words if there are any.

    It runs on `device`, a "cuda" or the "cpu".
    """

    network: str
    inputs: list[int]
    classes: int
    words: int | None
    batch: int
    steps: int
    learning_rate: float
    threads: int
    device: str


def _meta_gradient(problem: Problem) -> Callable[[], Any]:
    """`create_graph` through the steps, from c ⊙ w₀ on; a call that has not been made yet."""
    import torch  # noqa: PLC0415 - an optional dependency

    from benchmarks import pytorch_networks  # noqa: PLC0415 - loads it too

    torch.manual_seed(0)
    torch.set_num_threads(problem.threads)
    model = pytorch_networks.network(problem.network).to(problem.device)
    model.train()
    samples = (problem.steps + 1) * problem.batch
    shape = (samples, *problem.inputs)
    x = torch.randn(shape) if problem.words is None else torch.randint(problem.words, shape)
    inputs = x.to(problem.device).split(problem.batch)
    labels = torch.randint(problem.classes, (samples,)).to(problem.device).split(problem.batch)
    initial = {key: value.detach().requires_grad_() for key, value in model.named_parameters()}
    masks = {
        key: torch.ones_like(value, requires_grad=True)
        for key, value in initial.items()
        if value.ndim > 1
    }

    def meta_gradient() -> Any:
        weights = {
            key: masks[key] * value if key in masks else value for key, value in initial.items()
        }

        def loss_of(number: int) -> Any:
            outputs = torch.func.functional_call(model, weights, (inputs[number],))
            return torch.nn.functional.cross_entropy(outputs, labels[number])

        for number in range(problem.steps):
            gradients = torch.autograd.grad(loss_of(number), [*weights.values()], create_graph=True)
            weights = {
                key: value - problem.learning_rate * gradient
                for (key, value), gradient in zip(weights.items(), gradients, strict=True)
            }
        scores = torch.autograd.grad(loss_of(problem.steps), [*masks.values()])
        if problem.device == "cuda":
            torch.cuda.synchronize()
        return scores

    return meta_gradient


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Times the first call and the second."""
    call = _meta_gradient(Problem(**json.loads(sys.argv[1])))
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _peak_megabytes(), time.perf_counter()
    call()
    seconds, megabytes = time.perf_counter() - start, _peak_megabytes() - before
    start = time.perf_counter()
    call()
    later = time.perf_counter() - start
    sys.stdout.write(json.dumps({"seconds": seconds, "later": later, "megabytes": megabytes}))


if __name__ == "__main__":
    main()
