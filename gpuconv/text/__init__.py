"""Text for people: tables, HTML, numbers in users' text."""
