// Wires the page to the server: events come in, commands go out.

import { command, frame, newest, send } from "./api.js";
import { bars } from "./bars.js";
import * as curves from "./curves.js";
import { pad } from "./draw.js";
import * as explanation from "./explain.js";
import * as net from "./net.js";
import * as pixels from "./pixels.js";
import * as tables from "./tables.js";

const $ = (id) => document.getElementById(id);
let state = { classes: [], settings: {} };
let history = null;
let written = ""; // the text of the server's net
let pictured = false; // whether a picture has been requested

function showError(error) {
  $("error").textContent = error ? error.message : "";
  $("error").hidden = !error;
}

let asked = 0;

/** Waits for a response and shows its error. A late response does not clear the error of a newer request. */
async function answered(promise) {
  const mine = ++asked;
  try {
    const answer = await promise;
    if (mine === asked) showError(null);
    return answer;
  } catch (error) {
    showError(error);
    return undefined;
  }
}

const ask = (name, more) => answered(command(name, more));

// --- incoming messages --------------------------------------------------------------------------

function showState(found) {
  state = found;
  const put = (id, text) => {
    if ($(id).textContent !== text) $(id).textContent = text;
  };
  put("phase", found.message ? `${found.phase}: ${found.message}` : found.phase);
  put("step", String(found.step));
  put("epoch", `${Math.min(found.epoch + 1, found.epochs)} of ${found.epochs}, batch ${found.batch} of ${found.batches}`);
  put("rate", String(Number(found.lr.toPrecision(3))));
  $("rate").title = $("schedule").title = found.schedule;
  $("schedule").hidden = found.schedule === "constant";
  put("speed", found.per_second ? Math.round(found.per_second).toLocaleString("en") : "–");
  put("device", `${found.device} (${found.why})`);
  put("data", `${found.data}, ${found.images.toLocaleString("en")} images`);
  put("run", found.run);
  put("toggle", found.phase === "training" ? "Pause" : "Go");
  put("shown", found.shown);
  $("device").title = found.why;
  $("map").value = found.map;
  $("map-figure").hidden = found.map === "none";
  $("test").max = found.tests - 1;
  for (const button of document.querySelectorAll(".kind")) {
    button.setAttribute("aria-checked", String(button.dataset.kind === found.kind));
    button.tabIndex = button.dataset.kind === found.kind ? 0 : -1;
  }
  for (const field of $("settings").elements) {
    if (!field.name || field === document.activeElement || field.dataset.edited) continue;
    const value = found.settings[field.name];
    field.disabled = value === undefined;
    if (field.value !== String(value ?? "")) field.value = value ?? "";
  }
  const saved = found.saved.join();
  if ($("saved").dataset.saved !== saved) {
    $("saved").dataset.saved = saved;
    $("saved").replaceChildren(...found.saved.map((number) => new Option(`checkpoint ${number}`, number)));
    $("saved").selectedIndex = found.saved.length - 1;
  }
  $("load").disabled = !found.saved.length;
}

function showCurves(found) {
  if (found) history = found;
  if (!history) return;
  curves.draw($("loss"), history, 1, 0);
  curves.draw($("accuracy"), history, 2, 0, 1);
  curves.legend($("legend"), history);
}

function showNet(found) {
  net.build($("layers"), found, explain);
  $("net-size").textContent =
    `${found.parameters.toLocaleString("en")} parameters, ${found.mult_adds.toLocaleString("en")} multiply-adds an image`;
  drawing.resize(...found.input);
  if ($("text").value === written) $("text").value = found.text;
  written = found.text;
  if (pictured) showPicture();
}

const showPicture = newest(async () => {
  pictured = true;
  const found = await frame("picture").catch(() => null);
  if (!found) return;
  net.show(found);
  pixels.image($("image-canvas"), found.images[0]);
  bars($("best"), found.best, state.classes, found.truth);
  const truth = found.truth === null ? "" : `, this is: ${state.classes[found.truth] ?? found.truth}`;
  document.querySelector("#image figcaption").textContent = `${found.images[0].shape.join("×")}${truth}`;
  if (found.truth === null) $("guess").textContent = `The net says: ${state.classes[found.best[0][0]]}`;
});

const showExamples = newest(async () => {
  const found = await frame("examples").catch(() => null);
  if (!found || $("right").contains(document.activeElement) || $("wrong").contains(document.activeElement)) return;
  tables.examples({ right: $("right"), wrong: $("wrong") }, found, state.classes, (test) => ask("look", { test }));
  $("examples-count").textContent = `${found.right} of ${found.of} right`;
});

const showMap = newest(async () => {
  const found = await frame("map").catch(() => null);
  if (!found) return;
  const of = `${found.map} for ${state.classes[found.target] ?? found.target}, step ${found.step}`;
  $("map-caption").textContent = found.error || of;
  $("map-canvas").hidden = Boolean(found.error);
  $("map-canvas").setAttribute("aria-label", `map of the image: ${of}`);
  for (const { values, size } of found.layers) pixels.slice($("map-canvas"), values, size[1], size[2]);
});

const handlers = {
  state: showState,
  curves: showCurves,
  net: showNet,
  picture: showPicture,
  examples: showExamples,
  map: showMap,
  scales: (found) => tables.scales($("scales").tBodies[0], found),
  confusion: (found) => {
    tables.confusion($("confusion"), found);
    $("confusion-part").textContent = `of the ${found.part} images`;
  },
  log: (lines) => {
    const atEnd = $("log").scrollTop + $("log").clientHeight > $("log").scrollHeight - 30;
    $("log").textContent = lines.join("\n");
    if (atEnd) $("log").scrollTop = $("log").scrollHeight;
  },
};

// --- outgoing requests --------------------------------------------------------------------------

async function explain(layer, at) {
  const found = await ask("explain", { layer, at });
  if (found) explanation.show($("explanation"), found);
}

const drawing = pad(
  $("pad"),
  newest((bytes) => answered(send("drawing", bytes))),
);

async function open(file) {
  if (!file) return;
  await answered(send("image", await file.arrayBuffer()));
}

const toggle = () => ask(state.phase === "training" ? "pause" : "go");
$("toggle").addEventListener("click", toggle);
$("one").addEventListener("click", () => ask("step"));
$("restart").addEventListener("click", () => ask("restart"));
$("save").addEventListener("click", () => ask("save"));
$("load").addEventListener("click", () => ask("load", { number: Number($("saved").value) }));
$("test").addEventListener("change", () => ask("look", { test: Number($("test").value) }));
$("map").addEventListener("change", () => ask("look", { map: $("map").value }));
$("clear").addEventListener("click", drawing.clear);
$("file").addEventListener("change", () => open($("file").files[0]));

const kinds = [...document.querySelectorAll(".kind")];
kinds.forEach((button, number) => {
  button.addEventListener("click", () => ask("look", { kind: button.dataset.kind }));
  button.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = kinds[(number + by + kinds.length) % kinds.length];
    next.focus();
    next.click();
  });
});

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("pad").classList.toggle("over", kind === "dragover");
    if (kind === "drop") open(event.dataTransfer.files[0]);
  });
}

$("settings").addEventListener("input", (event) => (event.target.dataset.edited = "yes"));
$("settings").addEventListener("submit", async (event) => {
  event.preventDefault();
  const settings = {};
  for (const field of $("settings").elements) {
    if (!field.dataset.edited) continue;
    settings[field.name] = field.name === "optimizer" || field.value.trim() === "" ? field.value : Number(field.value);
  }
  if ((await ask("change", { settings })) === undefined) return;
  for (const field of $("settings").elements) delete field.dataset.edited;
});

$("undo").addEventListener("click", () => ($("text").value = written));
$("begin").addEventListener("click", async () => {
  const [area, line] = [$("text"), $("text-error")];
  try {
    await command("restart", { layers: area.value });
    line.hidden = true;
    area.removeAttribute("aria-invalid");
    written = area.value;
  } catch (error) {
    line.textContent = error.message;
    line.hidden = false;
    area.setAttribute("aria-invalid", "true");
    select(area, error.layer);
  }
});

// Selects the text of the layer that has the error, if each layer is on its own line.
function select(area, layer) {
  if (layer === null || layer === undefined) return;
  const lines = area.value.split("\n");
  const own = lines.flatMap((line, number) => (line.trim().startsWith("{") ? [number] : []));
  const start = lines.slice(0, own[layer]).join("\n").length + (own[layer] ? 1 : 0);
  area.focus();
  area.scrollTop = (own[layer] - 2) * (area.scrollHeight / lines.length);
  area.setSelectionRange(start, start + (lines[own[layer]] ?? "").length);
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, #pad");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "p") toggle();
  if (event.key === "s") ask("step");
});

window.addEventListener("resize", () => showCurves());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => showCurves());
pixels.key($("key"));

const events = new EventSource("events");
for (const [name, show] of Object.entries(handlers)) {
  events.addEventListener(name, (event) => show(JSON.parse(event.data)));
}
events.addEventListener("error", () => {
  $("phase").textContent = "the server does not answer; trying again";
});
