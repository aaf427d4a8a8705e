// The canvas for drawing with a pointer or the arrow keys. The drawing is scaled to the size that the net takes.

// changed(bytes) is called with one byte a pixel.
export function pad(canvas, changed) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const small = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const at = { x: canvas.width / 2, y: canvas.height / 2 };
  let shape = [8, 8];
  let drawing = false;
  let queued = false;

  function clear() {
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }

  function line(to) {
    context.strokeStyle = "#fff";
    context.lineWidth = canvas.width / 9;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(at.x, at.y);
    context.lineTo(to.x, to.y);
    context.stroke();
    Object.assign(at, to);
    tell();
  }

  function tell() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      changed(bytes());
    });
  }

  // The drawing, scaled to fill an image of the net's size, as each digit of the data set fills its image.
  function bytes() {
    const [height, width] = shape;
    const drawn = context.getImageData(0, 0, canvas.width, canvas.height).data;
    let [left, top, right, bottom] = [canvas.width, canvas.height, 0, 0];
    for (let i = 0; i < drawn.length; i += 4) {
      if (drawn[i] < 40) continue;
      const [x, y] = [(i / 4) % canvas.width, Math.floor(i / 4 / canvas.width)];
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
    }
    Object.assign(small.canvas, { width, height });
    small.fillStyle = "#000";
    small.fillRect(0, 0, width, height);
    small.imageSmoothingQuality = "high";
    const values = new Uint8Array(width * height);
    if (right >= left) {
      const [w, h] = [right - left + 1, bottom - top + 1];
      const scale = Math.min(width / w, height / h);
      small.drawImage(canvas, left, top, w, h, (width - w * scale) / 2, (height - h * scale) / 2, w * scale, h * scale);
      const pixels = small.getImageData(0, 0, width, height).data;
      for (let i = 0; i < values.length; i++) values[i] = pixels[4 * i];
    }
    return values;
  }

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  };
  canvas.addEventListener("pointerdown", (event) => {
    drawing = true;
    canvas.setPointerCapture(event.pointerId);
    Object.assign(at, place(event));
    line(place(event));
  });
  canvas.addEventListener("pointermove", (event) => drawing && line(place(event)));
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (drawing = false));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      clear();
      tell();
    }
    if (!move) return;
    event.preventDefault();
    const bound = (value) => Math.max(10, Math.min(canvas.width - 10, value));
    const to = { x: bound(at.x + 12 * move[0]), y: bound(at.y + 12 * move[1]) };
    if (event.shiftKey) line(to);
    else Object.assign(at, to);
  });
  clear();
  return {
    clear: () => {
      clear();
      tell();
    },
    resize: (height, width) => (shape = [height, width]),
  };
}
