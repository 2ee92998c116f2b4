"""python -m serve.cli"""

from serve.cli.main import main

if __name__ == "__main__":
    main()
