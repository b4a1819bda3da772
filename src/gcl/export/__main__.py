"""`python -m gcl.export`, which is `gcl export`."""

from gcl.export.export import main

if __name__ == "__main__":
    main()
