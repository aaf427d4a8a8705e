"""What the operating system and the terminal provide: files, locks, processes, messages."""
