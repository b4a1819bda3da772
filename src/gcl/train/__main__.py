"""`python -m gcl.train`, which is `gcl train`."""

from gcl.train.train import main

if __name__ == "__main__":
    main()
