"""`python -m gcl.report`, which is `gcl report`."""

from gcl.report.report import main

if __name__ == "__main__":
    main()
