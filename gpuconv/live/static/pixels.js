// Signed bytes and images as pixels on canvases.

// The colors of the values from -127 (light blue) through 0 (the dark background) to 127 (light amber).
const STOPS = [[217, 245, 255], [66, 168, 235], [26, 71, 115], [22, 26, 34], [128, 71, 20], [255, 168, 66], [255, 242, 204]];
const COLORS = Array.from({ length: 255 }, (_, index) => {
  const at = (index / 254) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[low].map((from, channel) => from + (STOPS[low + 1][channel] - from) * (at - low));
});

function put(canvas, width, height, color) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = color(i);
    pixels.data.set([r, g, b, 255], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
}

export function slice(canvas, values, height, width) {
  put(canvas, width, height, (i) => COLORS[values[i] + 127]);
}

export function image(canvas, { shape: [height, width, channels], values }) {
  put(canvas, width, height, (i) => {
    const at = i * channels;
    return channels === 3 ? [values[at], values[at + 1], values[at + 2]] : [values[at], values[at], values[at]];
  });
}

export function key(canvas) {
  put(canvas, 128, 1, (i) => COLORS[Math.min(254, 2 * i)]);
}
