"""`python -m gcl.score`, which is `gcl score`."""

from gcl.score.score import main

if __name__ == "__main__":
    main()
