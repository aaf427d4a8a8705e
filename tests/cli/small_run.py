"""The options of a run of seconds."""

DATA = "synthetic:n=20,size=9x7x3,classes=4"
CHOSEN = [
    "--data",
    DATA,
    "--model",
    "seed-net",
    "--seed",
    "3",
    "--epochs",
    "2",
    "--batch-size",
    "7",
    "--lr",
    "0.25",
    "--optimizer",
    "adam:beta1=0.5",
    "--schedule",
    "cosine",
    "--augment",
    "flip,shift:1",
    "--loss",
    "softmax:label_smoothing=0.2",
    "--device",
    "numpy",
]
