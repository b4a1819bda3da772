"""`python -m gcl.prepare`, which is `gcl prepare`."""

from gcl.prepare.prepare import main

if __name__ == "__main__":
    main()
