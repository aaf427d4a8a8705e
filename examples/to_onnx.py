"""A trained net as an ONNX file, run by onnxruntime, and read back (needs `pip install '.[onnx]' onnxruntime`)."""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

import gpuconv as gc


def main() -> None:
    train, test = gc.data.load("digits")
    net = gc.models.build("digits-net")
    gc.Trainer(net, "adam", lr=3e-3).fit(train, epochs=1, progress=False)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digits.onnx"
        gc.interop.to_onnx(net, file, normalization=True, softmax=True, layout="NHWC")
        session = onnxruntime.InferenceSession(file)
        (theirs,) = session.run(None, {session.get_inputs()[0].name: test.images})
        gc.interop.to_onnx(net, file)
        again = gc.interop.from_onnx(file)

    ours = net.predict(test.images, softmax=True)
    print(f"largest difference of {theirs.size} probabilities {np.abs(theirs - ours).max():.1e}")
    assert np.allclose(theirs, ours, atol=1e-5)
    assert list(again.state_dict()) == list(net.state_dict())
    print(f"read back: {len(again)} layers with the same names")


if __name__ == "__main__":
    main()
