// The saved page. Curves and weights come from precomputed sleeps; the responses in the first presentations are simulated
// in the browser, step by step.

const data = JSON.parse(document.getElementById("data").textContent);
const AXES = ["learning_rate", "noise", "alpha", "gamma"]; // of the table of sleeps, the last one fastest
const TYPES = { "<f8": Float64Array, "<f4": Float32Array, "|u1": Uint8Array, "<i4": Int32Array };
const element = (id) => document.getElementById(id);
const range = (length) => Array.from({ length }, (_, i) => i);
const filled = (length, number) => new Float64Array(length).fill(number);

function decoded({ type, base64 }) {
  return new TYPES[type](Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer);
}

const arrays = Object.fromEntries(Object.entries(data.arrays).map(([name, packed]) => [name, decoded(packed)]));
const records = data.presentation.length;
const first = data.presentation[1]; // a logarithmic axis has no place for the record before sleep
const rounded = (number) => number.toFixed(2).replace("-", "−");
const counted = (number) => number.toLocaleString("en");

// ---- the grid of sleeps; `at` is an index on every axis

const value = (at, name) => data.axes[name][at[name]];

/** The index of a sleep, or -1 - j for an unstable setting with data.reasons[j]. */
function sleepAt(at) {
  return arrays.index[AXES.reduce((place, name) => place * data.axes[name].length + at[name], 0)];
}

function curve(name, sleep) {
  return arrays[name].subarray(sleep * records, (sleep + 1) * records);
}

/** The record of the lowest -log SNR. */
function lowest(sleep) {
  const values = curve("neg_log_snr", sleep);
  return values.indexOf(Math.min(...values));
}

// ---- responses: Eq. 4 and 8 at every time step, and the fixed point of Eq. 9

function drive(w, x, z) {
  const inputs = x.length / z.length;
  for (let i = 0, j = 0; i < z.length; i++) {
    z[i] = 0;
    for (let k = 0; k < inputs; k++, j++) z[i] += w[j] * x[j];
  }
}

function learn({ w, m, r, x }, rate, gamma, { inputs, momentum, bias }) {
  for (let i = 0, j = 0; i < r.length; i++) {
    const away = r[i] - bias;
    for (let k = 0; k < inputs; k++, j++) {
      m[j] = momentum * m[j] - rate * (away * x[j] + gamma * (w[j] - arrays.w_init[j]));
      w[j] += m[j];
    }
  }
}

/** The inputs of all neurons in a presentation, (N, K). */
function inputsOf(presentation, noise, size, inputs) {
  const shared = (j) => arrays.x[presentation * inputs + (j % inputs)];
  const own = (j) => (noise ? noise * arrays.xi[presentation * size + j] : 0);
  return Float64Array.from({ length: size }, (_, j) => shared(j) + own(j));
}

const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;

function responses(at) {
  const { neurons, inputs, presentations, updates, shown, h, dt, bias, rest } = data.circuit;
  const [alpha, gamma, noise] = ["alpha", "gamma", "noise"].map((name) => value(at, name));
  const [size, steps] = [neurons * inputs, presentations * updates];
  const group = { w: arrays.w_init.slice(), m: filled(size, 0), r: filled(neurons, rest), x: null };
  const z = filled(neurons, 0);
  const names = ["time", "r_inh", ...range(shown).flatMap((i) => [`r_${i}`, `fixed_${i}`])];
  const columns = Object.fromEntries(names.map((name) => [name, filled(steps, 0)]));
  let r_inh = rest;
  for (const step of range(steps)) {
    if (step % updates === 0) {
      group.x = inputsOf(step / updates, noise, size, inputs);
      drive(group.w, group.x, z);
    }
    const before = mean(group.r);
    for (let i = 0; i < neurons; i++) group.r[i] += h * (z[i] - group.r[i] - alpha * (r_inh - rest) + bias);
    r_inh += h * (before - r_inh - (bias - rest));
    learn(group, arrays.rates[at.learning_rate * steps + step], gamma, data.circuit);
    drive(group.w, group.x, z);
    const inhibition = (alpha / (1 + alpha)) * mean(z);
    columns.time[step] = dt * (step + 1);
    columns.r_inh[step] = r_inh;
    for (let i = 0; i < shown; i++) {
      columns[`r_${i}`][step] = group.r[i];
      columns[`fixed_${i}`][step] = bias + z[i] - inhibition;
    }
  }
  return columns;
}

// ---- the sources of the panels

function curves(at, sleep) {
  const best = lowest(sleep), deepest = curve("neg_log_snr", sleep)[best], when = data.presentation[best];
  const names = ["neg_log_snr", "mean_kept", "mean_drift"];
  const later = names.map((name) => [name, Float64Array.from(curve(name, sleep).subarray(1))]);
  const end = data.theory_end[at.noise][at.alpha][at.gamma];
  return {
    curve: { presentation: data.presentation.slice(1), ...Object.fromEntries(later) },
    levels: {
      presentation: [first, data.presentation.at(-1)],
      theory_minimum: filled(2, data.theory_minimum[at.noise][at.gamma]),
      theory_end: filled(2, end),
    },
    best: {
      presentation: [Math.max(when, first)],
      neg_log_snr: [deepest],
      label: [`${rounded(deepest)} at ${counted(when)}`],
    },
  };
}

/** Weights before sleep, at a snapshot (the last snapshot is at the lowest -log SNR), and at the end. */
function weights(sleep, snapshot) {
  const { shape, low, high, presentations } = data.weights;
  const size = shape[0] * shape[1], places = presentations.length + 1;
  const image = (numbers) =>
    Bokeh.require("core/util/ndarray").ndarray(Float32Array.from(numbers), { dtype: "float32", shape });
  const after = (place) => {
    const start = (sleep * places + place) * size;
    return image(Array.from(arrays.weights.subarray(start, start + size), (w) => low + ((high - low) / 255) * w));
  };
  const when = snapshot < presentations.length ? presentations[snapshot] : data.presentation[lowest(sleep)];
  return {
    now: { presentation: [Math.max(when, first)] },
    weights: {
      image: [image(arrays.before), after(snapshot), after(presentations.length - 1)],
      x: [0, 1, 2],
      neurons: filled(3, shape[0]),
      label: ["before", `now: ${counted(when)}`, `end: ${counted(presentations.at(-1))}`],
    },
  };
}

/** The map over alpha and gamma at the learning rate and noise of `at`. */
function map(at) {
  const { alpha_edges: x, gamma_edges: y } = data.map;
  const names = ["alpha", "gamma", "left", "right", "bottom", "top", "end", "best", "time_of_best", "drift"];
  const columns = Object.fromEntries(names.map((name) => [name, []]));
  for (const alpha of range(x.length - 1))
    for (const gamma of range(y.length - 1)) {
      const place = { ...at, alpha, gamma }, sleep = sleepAt(place);
      if (sleep < 0) continue;
      const best = lowest(sleep), values = curve("neg_log_snr", sleep);
      const row = [value(place, "alpha"), value(place, "gamma")];
      row.push(x[alpha], x[alpha + 1], y[gamma], y[gamma + 1], values.at(-1), values[best]);
      row.push(data.presentation[best], curve("mean_drift", sleep).at(-1));
      names.forEach((name, i) => columns[name].push(row[i]));
    }
  return columns;
}

// ---- the page

const page = { at: { ...data.opening }, stable: null, snapshot: data.weights.opening, waiting: false };
let panels; // Bokeh's document

function fill(sources) {
  for (const [name, columns] of Object.entries(sources)) panels.get_model_by_name(name).data = columns;
}

/** The values of the last stable setting that differ from the sliders. */
function differences() {
  const moved = Object.entries(data.symbols).filter(([name]) => page.at[name] !== page.stable[name]);
  return moved.map(([name, symbol]) => `${symbol} = ${value(page.stable, name)}`).join(", ");
}

function summary(sleep) {
  const [values, best] = [curve("neg_log_snr", sleep), lowest(sleep)];
  const norm = (record) => `${Math.round(100 * curve("mean_kept", sleep)[record])} %`;
  return (
    `Lowest −log SNR ${rounded(values[best])} after ${counted(data.presentation[best])} presentations, with ${norm(best)} ` +
    `of the mean left; at the end ${rounded(values.at(-1))} and ${norm(records - 1)}.`
  );
}

/** Show the reason of an unstable setting and dim the last stable picture; an empty reason removes both. */
function warn(reason) {
  element("trouble").hidden = !reason;
  element("trouble").textContent = reason && `${reason} The panels show the last stable setting, ${differences()}.`;
  element("summary").style.visibility = reason ? "hidden" : "visible";
  for (const name of data.result_panels) panels.get_model_by_name(name).styles = { opacity: reason ? "0.35" : "1" };
}

/** Update sliders and panels; the slow responses only after a move on an axis. */
function show() {
  const sleep = sleepAt(page.at);
  for (const name of AXES) label(name, page.at[name], `${value(page.at, name)}`);
  if (sleep >= 0 && AXES.some((name) => page.at[name] !== page.stable?.[name])) {
    page.stable = { ...page.at };
    fill({ ...curves(page.at, sleep), responses: responses(page.at) });
    element("summary").textContent = summary(sleep);
  }
  const { presentations } = data.weights;
  const now = page.snapshot < presentations.length ? `after ${counted(presentations[page.snapshot])}` : "at the lowest";
  label("now", page.snapshot, now);
  const setting = { alpha: [value(page.at, "alpha")], gamma: [value(page.at, "gamma")] };
  fill({ ...weights(sleepAt(page.stable), page.snapshot), setting, map: map(page.at) });
  warn(sleep < 0 ? data.reasons[-1 - sleep] : "");
}

function label(name, index, text) {
  element(name).value = index;
  element(name).setAttribute("aria-valuetext", text);
  element(`${name}_value`).textContent = text;
}

/** Update at most once per frame. */
function later() {
  if (page.waiting) return;
  page.waiting = true;
  requestAnimationFrame(() => {
    page.waiting = false;
    show();
  });
}

function move(values) {
  Object.assign(page.at, values);
  later();
}

/** Move to the clicked cell of the map. */
function clicked({ x, y }) {
  const cell = (edges, at) => range(edges.length - 1).findIndex((i) => edges[i] <= at && at < edges[i + 1]);
  const [alpha, gamma] = [cell(data.map.alpha_edges, x), cell(data.map.gamma_edges, y)];
  if (alpha >= 0 && gamma >= 0) move({ alpha, gamma });
}

async function open() {
  const views = await Bokeh.embed.embed_item(data.item, element("panels"));
  panels = views.roots[0].model.document;
  for (const name of AXES) element(name).addEventListener("input", (event) => move({ [name]: +event.target.value }));
  element("now").addEventListener("input", (event) => {
    page.snapshot = +event.target.value;
    later();
  });
  element("reset").addEventListener("click", () => {
    page.snapshot = data.weights.opening;
    move(data.own);
  });
  panels.get_model_by_name("map_panel").on_event("tap", clicked);
  show();
  move(data.own);
}

open();
