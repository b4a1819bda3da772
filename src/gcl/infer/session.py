"""onnxruntime sessions on the device that was asked for, or an error; never a silent fallback."""

from pathlib import Path

import onnxruntime

from gcl.common.devices import NO_CUDA, has_cuda, resolve
from gcl.common.errors import UserError

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
SLOWER = ["SkipLayerNormFusion"]  # on a CPU: the fused kernel takes several times as long as its parts


def open_session(path: Path, device: str, threads: int = 0, dtype: str = "float32") -> onnxruntime.InferenceSession:
    """Open a graph on `device` (auto, cuda or cpu), with `threads` CPU threads (0: all).

    Raises:
        UserError: the graph can't be read, or cuda was asked for and isn't what runs.
    """
    device = resolve(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if dtype == "float16" and device == "cpu":  # at the highest level the CPU provider crashes on such graphs
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if device == "cuda":
        if not has_cuda():
            raise UserError(NO_CUDA)
        onnxruntime.preload_dlls()  # the libraries that pip installed are not on the loader's path
    providers, left_out = ([CUDA, CPU], []) if device == "cuda" else ([CPU], SLOWER)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers, disabled_optimizers=left_out)
    except Exception as error:  # onnxruntime's errors share no base class
        raise UserError(f"can't open ONNX graph {path}: {error}") from error
    if device == "cuda" and session.get_providers()[0] != CUDA:
        raise UserError(
            f"device: cuda was asked for, but onnxruntime runs on "
            f"{session.get_providers()}; are CUDA 13 and cuDNN 9 installed?"
        )
    return session
