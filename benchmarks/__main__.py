"""`python -m benchmarks`: the `zoo` command, where its script is not on the path."""

from benchmarks.cli import main

if __name__ == "__main__":
    main()
