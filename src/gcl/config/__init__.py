"""What the YAML files in config/ may say, and where results lie."""
