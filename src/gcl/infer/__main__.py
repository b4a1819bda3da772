"""`python -m gcl.infer`, which is `gcl infer`."""

from gcl.infer.infer import main

if __name__ == "__main__":
    main()
