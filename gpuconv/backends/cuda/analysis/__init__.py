"""What the kernels take of a GPU and how long they should run there, from their machine code; nothing is run."""
