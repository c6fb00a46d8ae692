"""How a handler is run: one file for each way, all with the same method."""
