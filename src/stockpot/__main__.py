"""``python -m stockpot`` is the ``stockpot`` command."""

from stockpot.cli.main import main

if __name__ == "__main__":
    main()
