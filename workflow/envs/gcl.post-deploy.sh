# The project itself, from the working folder; third-party packages are in gcl.yaml.
# Snakemake does not see it if activating the environment failed: then this would go into another Python.
case "$(python -c 'import sys; print(sys.executable)')" in
  "${CONDA_PREFIX:?no conda environment is active: is there a space in the path of conda or of this folder?}"/*) ;;
  *) echo "python is not that of the environment $CONDA_PREFIX" >&2; exit 1 ;;
esac
python -m pip install --quiet --no-deps --no-build-isolation --editable .
