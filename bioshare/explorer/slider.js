// A label, a number field and a slider: plain form elements, for keyboards, screen readers and phones.

const POSITIONS = 100; // positions of a logarithmic slider in a factor of ten

function digits(value, whole) {
  return whole ? Math.round(value) : Number(value.toPrecision(3));
}

export default {
  render({ model, el }) {
    const id = `bioshare-${Math.random().toString(36).slice(2)}`;
    el.classList.add("bioshare-slider");
    el.dataset.lmSuppressShortcuts = "true"; // or JupyterLab would take the arrow keys
    el.addEventListener("keydown", (event) => event.stopPropagation());
    el.innerHTML = `<label for="${id}"></label><input type="number" step="any"><input type="range" id="${id}">`;
    const [label, field, range] = el.children;
    const [name, whole] = [model.get("name"), model.get("whole")];
    field.dataset.field = range.dataset.slider = name;
    const logarithmic = !model.get("step");
    const ends = () => [model.get("low"), model.get("high")];
    const steps = () => Math.round(POSITIONS * Math.log10(model.get("high") / model.get("low")));
    const track = () => (logarithmic ? [0, steps()] : ends());
    const position = (value) => {
      const [low, high] = ends();
      return logarithmic ? (steps() * Math.log(value / low)) / Math.log(high / low) : value;
    };
    const valueAt = (at) => {
      const [low, high] = ends();
      return logarithmic ? Number((low * (high / low) ** (at / steps())).toPrecision(3)) : at;
    };

    const show = () => {
      const [low, high, value, limit] = ["low", "high", "value", "limit"].map((trait) => model.get(trait));
      label.textContent = model.get("label");
      Object.assign(field, { min: low, max: high, value: digits(value, whole), ariaLabel: model.get("label") });
      const [first, last] = track();
      Object.assign(range, { min: first, max: last, step: model.get("step") || 1 });
      range.value = position(value);
      range.ariaValueText = field.value;
      const stable = limit === null ? 1 : (position(limit) - first) / (last - first);
      range.style.setProperty("--stable", `${100 * Math.min(1, Math.max(0, stable))}%`);
      el.classList.toggle("bioshare-unstable", model.get("unstable"));
    };
    const move = (value) => {
      const inside = Math.min(model.get("high"), Math.max(model.get("low"), value));
      if (Number.isFinite(inside)) model.set("value", whole ? Math.round(inside) : inside);
      model.save_changes();
      show();
    };
    range.addEventListener("input", () => move(valueAt(Number(range.value))));
    field.addEventListener("change", () => move(field.value === "" ? NaN : Number(field.value)));
    model.on("change", show);
    show();
    return () => model.off("change", show);
  },
};
