// A labelled slider with a field for its number: plain form elements, for keyboards, screen readers and phones.

function digits(value, whole) {
  return whole ? Math.round(value) : Number(value.toPrecision(3));
}

export default {
  render({ model, el }) {
    const id = `bioshare-${Math.random().toString(36).slice(2)}`;
    el.classList.add("bioshare-slider");
    el.dataset.lmSuppressShortcuts = "true"; // JupyterLab and its notebook would take the arrow keys
    el.addEventListener("keydown", (event) => event.stopPropagation());
    el.innerHTML = `<label for="${id}"></label><input type="number" step="any"><input type="range" id="${id}">`;
    const [label, field, range] = el.children;
    const [name, whole] = [model.get("name"), model.get("whole")];
    field.dataset.field = range.dataset.slider = name;
    const logarithmic = !model.get("step");
    const position = (value) => (logarithmic ? Math.log10(value) : value);

    const show = () => {
      const [low, high, value, limit] = ["low", "high", "value", "limit"].map((trait) => model.get(trait));
      label.textContent = model.get("label");
      Object.assign(field, { min: low, max: high, value: digits(value, whole), ariaLabel: model.get("label") });
      Object.assign(range, { min: position(low), max: position(high), step: model.get("step") || 0.01 });
      range.value = position(value);
      range.ariaValueText = field.value;
      const stable = limit === null ? 1 : (position(limit) - position(low)) / (position(high) - position(low));
      range.style.setProperty("--stable", `${100 * Math.min(1, Math.max(0, stable))}%`);
      el.classList.toggle("bioshare-unstable", model.get("unstable"));
    };
    const move = (value) => {
      const inside = Math.min(model.get("high"), Math.max(model.get("low"), value));
      if (Number.isFinite(inside)) model.set("value", whole ? Math.round(inside) : inside);
      model.save_changes();
      show();
    };
    range.addEventListener("input", () => {
      const at = Number(range.value);
      move(logarithmic ? Number((10 ** at).toPrecision(3)) : at);
    });
    field.addEventListener("change", () => move(field.value === "" ? NaN : Number(field.value)));
    model.on("change", show);
    show();
    return () => model.off("change", show);
  },
};
