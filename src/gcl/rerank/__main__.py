"""`python -m gcl.rerank`, which is `gcl rerank`."""

from gcl.rerank.rerank import main

if __name__ == "__main__":
    main()
