"""What tests of the cache write into its entries."""


class Filler:
    """A callable that fills an entry: it writes `content` to the file a and two bytes to the file b, and counts its
    calls."""

    def __init__(self, content="made"):
        self.content, self.calls = content, 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "a").write_text(self.content)
        (folder / "b").write_bytes(b"\0\1")
