// A Bokeh layout in a notebook: loads BokehJS, applies sources and properties from Python, and sends clicks to Python.

function load(model) {
  const name = `bioshare_bokeh_${model.get("version")}`;
  if (!window[name]) {
    const other = window.Bokeh; // of another program, perhaps in another version
    const script = document.createElement("script");
    script.textContent = model.get("bokehjs");
    document.head.append(script);
    window[name] = window.Bokeh;
    if (other) window.Bokeh = other;
  }
  return window[name];
}

function unpacked(bokeh, column) {
  if (!column.shape) return column; // text
  const { data, dtype, shape } = column;
  const type = dtype === "float32" ? Float32Array : Float64Array;
  const numbers = new type(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));
  return shape.length === 1 ? numbers : bokeh.require("core/util/ndarray").ndarray(numbers, { dtype, shape });
}

function apply(bokeh, document, sources) {
  for (const [name, columns] of Object.entries(sources)) {
    const data = Object.entries(columns).map(([column, value]) => [
      column,
      Array.isArray(value) ? value.map((row) => unpacked(bokeh, row)) : unpacked(bokeh, value),
    ]);
    document.get_model_by_name(name).data = Object.fromEntries(data);
  }
}

function download(message, [content]) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "text/html" }));
  link.download = message.download;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export default {
  async render({ model, el }) {
    const bokeh = load(model);
    const target = window.document.createElement("div");
    el.append(target);
    const views = await bokeh.embed.embed_item(model.get("item"), target);
    const document = views.roots[0].model.document;
    const update = () => {
      for (const [name, values] of Object.entries(model.get("properties")))
        document.get_model_by_name(name).setv(values);
    };
    const handlers = { "change:properties": update };
    for (const trait of ["result", "overlay", "map"])
      handlers[`change:${trait}`] = () => apply(bokeh, document, model.get(trait));
    for (const [event, handler] of Object.entries(handlers)) {
      handler();
      model.on(event, handler);
    }
    model.on("msg:custom", download);
    for (const panel of model.get("clickable"))
      document
        .get_model_by_name(panel)
        .on_event("tap", ({ x, y }) => model.send({ panel, x, y }));
    return () => {
      for (const [event, handler] of Object.entries(handlers)) model.off(event, handler);
      model.off("msg:custom", download);
      views.clear();
    };
  },
};
