"""Reading a raw BIDS dataset and writing a derivative one, without PyTorch or Nipype."""
