from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

_Float = TypeVar("_Float", np.float32, np.float64)

def build_info() -> dict[str, Any]: ...
def gamma_update(
    log_gamma: npt.NDArray[_Float],
    sign: npt.NDArray[np.int8],
    curvature: npt.NDArray[_Float],
    learning_rate: float,
    threads: int = 1,
    instruction_set: str = "",
) -> None: ...
def gamma_step(
    weight: npt.NDArray[_Float],
    log_gamma: npt.NDArray[_Float],
    sign: npt.NDArray[np.int8],
    gradient: npt.NDArray[_Float],
    curvature: npt.NDArray[_Float],
    learning_rate: float,
    threads: int = 1,
    instruction_set: str = "",
) -> bool: ...
def gamma_momentum_step(
    weight: npt.NDArray[_Float],
    velocity: npt.NDArray[_Float],
    log_scale: npt.NDArray[_Float],
    p: npt.NDArray[_Float],
    q: npt.NDArray[_Float],
    gradient: npt.NDArray[_Float],
    curvature: npt.NDArray[_Float],
    learning_rate: float,
    momentum: float,
    threads: int = 1,
    instruction_set: str = "",
) -> bool: ...
def triad(
    result: npt.NDArray[np.float32],
    a: npt.NDArray[np.float32],
    b: npt.NDArray[np.float32],
    scale: float,
    threads: int = 1,
) -> None: ...
