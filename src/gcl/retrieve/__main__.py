"""`python -m gcl.retrieve`, which is `gcl retrieve`."""

from gcl.retrieve.retrieve import main

if __name__ == "__main__":
    main()
