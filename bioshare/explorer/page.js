// The stand-alone page. What the sliders say is looked up among the sleeps computed beforehand; the responses in the
// first presentations, which are not among them, are simulated here step by step.

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
const first = data.presentation[1]; // the axis is logarithmic: the record before sleep has no place on it
const words = (number) => number.toFixed(2).replace("-", "−");
const counted = (number) => number.toLocaleString("en");

// ---- the table of sleeps; `at` holds an index on every axis

const value = (at, name) => data.axes[name][at[name]];

/** Which sleep, or -1 - j where there is none, for the reason data.words[j]. */
function cell(at) {
  return arrays.cell[AXES.reduce((place, name) => place * data.axes[name].length + at[name], 0)];
}

function curve(name, sleep) {
  return arrays[name].subarray(sleep * records, (sleep + 1) * records);
}

/** The record of the lowest -log SNR. */
function lowest(sleep) {
  const values = curve("neg_log_snr", sleep);
  return values.indexOf(Math.min(...values));
}

// ---- responses: Eq. 4 and 8 at every time step, and what the circuit would settle to (Eq. 9)

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

/** What the neurons see in a presentation, (N, K). */
function seen(presentation, noise, size, inputs) {
  const shared = (j) => arrays.x[presentation * inputs + (j % inputs)];
  const own = (j) => (noise ? noise * arrays.xi[presentation * size + j] : 0);
  return Float64Array.from({ length: size }, (_, j) => shared(j) + own(j));
}

const mean = (numbers) => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;

function responses(at) {
  const { neurons, inputs, watched, updates, shown, h, dt, bias } = data.circuit;
  const [alpha, gamma, noise] = ["alpha", "gamma", "noise"].map((name) => value(at, name));
  const [size, steps] = [neurons * inputs, watched * updates];
  const group = { w: arrays.w_init.slice(), m: filled(size, 0), r: filled(neurons, 0), x: null };
  const z = filled(neurons, 0);
  const names = ["time", "r_inh", ...range(shown).flatMap((i) => [`r_${i}`, `fixed_${i}`])];
  const found = Object.fromEntries(names.map((name) => [name, filled(steps, 0)]));
  let r_inh = 0;
  for (const step of range(steps)) {
    if (step % updates === 0) {
      group.x = seen(step / updates, noise, size, inputs);
      drive(group.w, group.x, z);
    }
    const before = mean(group.r);
    for (let i = 0; i < neurons; i++) group.r[i] += h * (z[i] - group.r[i] - alpha * r_inh + bias);
    r_inh += h * (before - r_inh - bias);
    learn(group, arrays.rates[at.learning_rate * steps + step], gamma, data.circuit);
    drive(group.w, group.x, z);
    const inhibition = (alpha / (1 + alpha)) * mean(z);
    found.time[step] = dt * (step + 1);
    found.r_inh[step] = r_inh;
    for (let i = 0; i < shown; i++) {
      found[`r_${i}`][step] = group.r[i];
      found[`fixed_${i}`][step] = bias + z[i] - inhibition;
    }
  }
  return found;
}

// ---- the columns of the panels

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
      label: [`${words(deepest)} at ${counted(when)}`],
    },
  };
}

/** Weights before, after one of the presentations that are kept (the last place: at the lowest), and at the end. */
function weights(sleep, kept) {
  const { shape, low, high, presentations } = data.weights;
  const size = shape[0] * shape[1], places = presentations.length + 1;
  const image = (numbers) =>
    Bokeh.require("core/util/ndarray").ndarray(Float32Array.from(numbers), { dtype: "float32", shape });
  const after = (place) => {
    const start = (sleep * places + place) * size;
    return image(Array.from(arrays.weights.subarray(start, start + size), (w) => low + ((high - low) / 255) * w));
  };
  const when = kept < presentations.length ? presentations[kept] : data.presentation[lowest(sleep)];
  return {
    now: { presentation: [Math.max(when, first)] },
    weights: {
      image: [image(arrays.before), after(kept), after(presentations.length - 1)],
      x: [0, 1, 2],
      neurons: filled(3, shape[0]),
      label: ["before", `now: ${counted(when)}`, `end: ${counted(presentations.at(-1))}`],
    },
  };
}

/** The map over alpha and gamma at the learning rate and noise of `at`. */
function map(at) {
  const { sides, levels } = data.map;
  const names = ["alpha", "gamma", "left", "right", "bottom", "top", "end", "best", "time_of_best", "drift"];
  const columns = Object.fromEntries(names.map((name) => [name, []]));
  for (const alpha of range(sides.length - 1))
    for (const gamma of range(levels.length - 1)) {
      const there = { ...at, alpha, gamma }, sleep = cell(there);
      if (sleep < 0) continue;
      const best = lowest(sleep), values = curve("neg_log_snr", sleep);
      const row = [value(there, "alpha"), value(there, "gamma")];
      row.push(sides[alpha], sides[alpha + 1], levels[gamma], levels[gamma + 1], values.at(-1), values[best]);
      row.push(data.presentation[best], curve("mean_drift", sleep).at(-1));
      names.forEach((name, i) => columns[name].push(row[i]));
    }
  return columns;
}

// ---- the page

const page = { at: { ...data.opening }, stable: null, kept: data.weights.presentations.length, waiting: false };
let panels; // Bokeh's document

function fill(sources) {
  for (const [name, columns] of Object.entries(sources)) panels.get_model_by_name(name).data = columns;
}

/** Where the last stable setting differs from the sliders. */
function told() {
  const moved = Object.entries(data.symbols).filter(([name]) => page.at[name] !== page.stable[name]);
  return moved.map(([name, symbol]) => `${symbol} = ${value(page.stable, name)}`).join(", ");
}

function summary(sleep) {
  const [values, best] = [curve("neg_log_snr", sleep), lowest(sleep)];
  const kept = (record) => `${Math.round(100 * curve("mean_kept", sleep)[record])} %`;
  return (
    `Lowest −log SNR ${words(values[best])} after ${counted(data.presentation[best])} presentations, with ${kept(best)} ` +
    `of the mean left; at the end ${words(values.at(-1))} and ${kept(records - 1)}.`
  );
}

/** Say what is unstable and dim the last stable picture; nothing where the setting is stable. */
function warn(reason) {
  element("trouble").hidden = !reason;
  element("trouble").textContent = reason && `${reason} The panels show the last stable setting, ${told()}.`;
  element("summary").style.visibility = reason ? "hidden" : "visible";
  for (const name of data.answer_panels) panels.get_model_by_name(name).styles = { opacity: reason ? "0.35" : "1" };
}

/** Bring sliders and panels up to date; the responses take longest, and only where an axis has moved. */
function show() {
  const sleep = cell(page.at);
  for (const name of AXES) label(name, page.at[name], `${value(page.at, name)}`);
  if (sleep >= 0 && AXES.some((name) => page.at[name] !== page.stable?.[name])) {
    page.stable = { ...page.at };
    fill({ ...curves(page.at, sleep), responses: responses(page.at) });
    element("summary").textContent = summary(sleep);
  }
  const { presentations } = data.weights;
  label("now", page.kept, page.kept < presentations.length ? `after ${counted(presentations[page.kept])}` : "at the lowest");
  const here = { alpha: [value(page.at, "alpha")], gamma: [value(page.at, "gamma")] };
  fill({ ...weights(cell(page.stable), page.kept), here, map: map(page.at) });
  warn(sleep < 0 ? data.words[-1 - sleep] : "");
}

function label(name, index, text) {
  element(name).value = index;
  element(name).setAttribute("aria-valuetext", text);
  element(`${name}_value`).textContent = text;
}

/** Show once per frame, however fast a slider moves. */
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

/** The cell of the map that was clicked, or none. */
function clicked({ x, y }) {
  const place = (borders, at) => range(borders.length - 1).findIndex((i) => borders[i] <= at && at < borders[i + 1]);
  const [alpha, gamma] = [place(data.map.sides, x), place(data.map.levels, y)];
  if (alpha >= 0 && gamma >= 0) move({ alpha, gamma });
}

async function open() {
  const views = await Bokeh.embed.embed_item(data.item, element("panels"));
  panels = views.roots[0].model.document;
  for (const name of AXES) element(name).addEventListener("input", (event) => move({ [name]: +event.target.value }));
  element("now").addEventListener("input", (event) => {
    page.kept = +event.target.value;
    later();
  });
  element("reset").addEventListener("click", () => {
    page.kept = data.weights.presentations.length;
    move(data.own);
  });
  panels.get_model_by_name("map_panel").on_event("tap", clicked);
  show();
  move(data.own);
}

open();
