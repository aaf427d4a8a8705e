"""What tests of the cache write into its entries."""


class Filler:
    """Fills an entry: a callable that writes `content` to a file, and counts its calls."""

    def __init__(self, content="made"):
        self.content, self.calls = content, 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "a").write_text(self.content)
        (folder / "b").write_bytes(b"\0\1")
