"""`python -m gcl.fetch`, which is `gcl fetch`."""

from gcl.fetch.fetch import main

if __name__ == "__main__":
    main()
