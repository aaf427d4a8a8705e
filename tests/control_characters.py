"""A text with control characters, which commands and pictures must escape."""

# Red, carriage return, new line, tab, bell, clear screen, text from right to left, line separator.
ODD = "\x1b[31m\r\n\t\x07\x9b2J\u202egnp\u2028"
