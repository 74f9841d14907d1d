"""``python -m npasbench``."""

from npasbench.cli import main

if __name__ == "__main__":
    main()
