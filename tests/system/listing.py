"""What a folder holds."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())
