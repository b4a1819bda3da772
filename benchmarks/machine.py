"""Peak of the machine: matrix products of several number types, and memory copies.

python benchmarks/machine.py
"""

import torch

from measure import arguments, in_turns, table, write

COPY = 2**28  # numbers of 4 bytes


def main() -> None:
    """Run from the command line."""
    given = arguments(__doc__, repeats=7, size=4096)
    size, on = given.size, torch.device(given.device)
    a = torch.randn(size, size, device=on)
    small = torch.randint(-127, 128, (size, size), dtype=torch.int8, device=on)
    source, target = torch.ones(COPY, device=on), torch.empty(COPY, device=on)
    operands = {"float64": a.double(), "float32": a, "bfloat16": a.bfloat16()}
    if given.device == "cuda":
        operands["float16"] = a.half()
    outputs = {name: torch.empty_like(x) for name, x in operands.items()}
    works = {name: lambda n=name: torch.mm(operands[n], operands[n].T, out=outputs[n]) for name in operands}
    counts = torch.empty(size, size, dtype=torch.int32, device=on)
    works |= {"int8": lambda: torch._int_mm(small, small.T, out=counts), "copy": lambda: target.copy_(source)}
    times = in_turns(works, given.repeats)
    done = dict.fromkeys((*operands, "int8"), 2 * size**3 / 1000000000000.0) | {"copy": 8 * COPY / 1e9}
    unit = {"copy": "GB/s, read and written"}
    peaks = {name: done[name] / t.median for name, t in times.items()}
    rows = [[name, f"{peaks[name]:.3g} {unit.get(name, 'Tera-operations/s')}", t.shown()] for name, t in times.items()]
    write(
        "machine",
        "The machine",
        [table(f"{size} x {size} products by torch", ["what", "rate", "time"], rows)],
        peaks=peaks,
    )


if __name__ == "__main__":
    main()
