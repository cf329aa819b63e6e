"""`python -m llmpipe`, the form that torchrun starts."""

from llmpipe.cli.app import main

if __name__ == "__main__":
    main()
