"""`python -m product_live_worker`."""

from product_live_worker.cli import main

if __name__ == "__main__":
    main()
