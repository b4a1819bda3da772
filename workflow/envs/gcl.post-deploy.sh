# The project itself, from the working folder; third-party packages are in gcl.yaml.
python -m pip install --quiet --no-deps --no-build-isolation --editable .
