"""Take the projection of image tokens out of a first-stage checkpoint, for the backbone vista_lite.

In:  <results>/checkpoints/vista_lite_stage1/vista_lite_stage1/seed0, made by
     snakemake --cores all --configfile config/vista_lite.yaml
Out: data/vista_lite/visual_proj.safetensors, which the repository ships.
"""

from pathlib import Path

from gcl.common.command import parser, run
from gcl.common.files import atomic_path
from gcl.models.weights.checkpoints import read_checkpoint

BACKBONE, PREFIX = "vista_lite_stage1", "visual_proj."


def vista_lite(checkpoint: Path, output: Path) -> None:
    """Write the projection's two tensors.

    Raises:
        UserError: the checkpoint is another backbone's.
    """
    from safetensors.torch import save_file

    state = read_checkpoint(checkpoint, BACKBONE)
    kept = {k.removeprefix(PREFIX): v.contiguous() for k, v in sorted(state.items()) if k.startswith(PREFIX)}
    with atomic_path(output) as temporary:
        save_file(kept, temporary)
        temporary.chmod(0o644)


def main() -> None:
    """Run from the command line."""
    default = Path(f"results_vista_lite/checkpoints/{BACKBONE}/{BACKBONE}/seed0")
    options = parser("vista_lite", __doc__, f"--checkpoint {default}")
    options.add_argument("--checkpoint", type=Path, default=default, help="of the first stage")
    options.add_argument("--output", type=Path, default=Path("data/vista_lite/visual_proj.safetensors"))
    run(options, vista_lite)


if __name__ == "__main__":
    main()
