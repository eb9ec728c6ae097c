"""The BIDS App: from the command line to the output dataset."""
