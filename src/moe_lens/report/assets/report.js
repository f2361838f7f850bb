"use strict";
(() => {
  const root = document.documentElement;
  const data = (id) => JSON.parse(document.getElementById(id).textContent);
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");

  // Theme: the system's until the reader chooses; the choice is kept where the browser lets us.
  let chosen = null;
  try { chosen = localStorage.getItem("moe-lens-theme"); } catch { /* no storage: not kept */ }
  const isDark = () => (chosen ? chosen === "dark" : wantsDark.matches);
  const button = document.getElementById("theme");
  const paint = () => {
    if (chosen) root.dataset.theme = chosen;
    button.textContent = isDark() ? "Light theme" : "Dark theme";
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    try { localStorage.setItem("moe-lens-theme", chosen); } catch { /* not kept */ }
    paint();
    redraw();
  });
  wantsDark.addEventListener("change", () => { paint(); redraw(); });
  paint();

  // Charts: the static picture is there first; the live one takes its place when it comes near.
  const specs = data("specs");
  const packed = data("datasets");
  const configs = data("themes");
  const rows = {};
  const unpack = (name) => {
    if (!rows[name]) {
      const { length, columns } = packed[name];
      const made = Array.from({ length }, () => ({}));
      for (const [key, column] of Object.entries(columns)) {
        const at = column.texts ? (i) => column.texts[column.places[i]] : (i) => column[i];
        for (let i = 0; i < length; i += 1) made[i][key] = at(i);
      }
      rows[name] = made;
    }
    return rows[name];
  };
  const namesOf = (spec, found = new Set()) => {
    if (spec && typeof spec === "object") {
      if (spec.data && typeof spec.data.name === "string") found.add(spec.data.name);
      Object.values(spec).forEach((part) => namesOf(part, found));
    }
    return found;
  };
  const fit = (spec, width) => {
    const cell = spec.usermeta.cellWidth;
    if (spec.facet) {
      const charts = new Set(Object.values(spec.datasets)[0].map((row) => row.domain)).size;
      const room = Math.floor((width + 25) / cell);
      const columns = Math.max(1, Math.min(spec.columns, charts, room));
      spec.columns = columns;
      spec.spec.width = Math.floor((width - 62 - 22 * (columns - 1)) / columns);
    } else {
      spec.width = cell ? Math.min(cell, width) : width;
      spec.autosize = { type: "fit-x", contains: "padding" };
    }
    return spec;
  };
  const views = {};
  const kept = {};
  const draw = async (box) => {
    const name = box.dataset.figure;
    const { spec: plain, canvas } = specs[name];
    const stage = box.parentElement;
    const width = Math.floor(stage.clientWidth);
    const spec = structuredClone(plain);
    spec.config = configs[isDark() ? "dark" : "light"];
    spec.datasets = Object.fromEntries([...namesOf(spec)].map((key) => [key, unpack(key)]));
    fit(spec, width);
    for (const param of spec.params ?? []) {
      if (kept[param.name] !== undefined) param.value = kept[param.name];
    }
    const controls = stage.parentElement.querySelector(".controls");
    controls.replaceChildren();
    const result = await vegaEmbed(box, spec, {
      ast: true,
      renderer: canvas ? "canvas" : "svg",
      mode: "vega-lite",
      actions: false,
      defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
      bind: controls,
    });
    if (views[name]) views[name].finalize();
    views[name] = result;
    box.dataset.width = String(width);
    box.hidden = false;
    box.previousElementSibling.classList.add("screen-off");
    stage.parentElement.querySelector(".save").hidden = false;
    for (const param of spec.params ?? []) {
      result.view.addSignalListener(param.name, (_, value) => { kept[param.name] = value; });
    }
    if (name === "heatmap") result.view.addEventListener("click", (_, item) => pick(item));
    markScroll();
  };
  const save = async (name, type) => {
    const link = document.createElement("a");
    link.download = `${name}.${type}`;
    link.href = await views[name].view.toImageURL(type, type === "png" ? 2 : 1);
    link.click();
  };
  for (const button of document.querySelectorAll(".save button")) {
    button.addEventListener("click", () => save(button.dataset.figure, button.dataset.type));
  }
  // A cell of the map chooses the domain and layer of the bars.
  const pick = (item) => {
    const { domain, layer } = (item && item.datum) || {};
    if (domain === undefined || layer === undefined) return;
    Object.assign(kept, { domain, layer });
    const bars = views.specialization;
    if (bars) bars.view.signal("domain", domain).signal("layer", layer).runAsync();
    document.getElementById("specialization").scrollIntoView({ block: "start" });
  };
  let queue = Promise.resolve();
  const later = (box) => {
    queue = queue.then(() => draw(box)).catch((error) => {
      console.error(`figure ${box.dataset.figure} stays a static picture:`, error);
    });
    return queue;
  };
  const boxes = [...document.querySelectorAll(".live")];
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      const box = target.querySelector(".live");
      seen.add(box);
      later(box);
    }
  }, { rootMargin: "500px" });
  boxes.forEach((box) => watch.observe(box.parentElement));
  const redraw = () => seen.forEach((box) => later(box));
  let waiting = 0;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => seen.forEach((box) => {
      const width = Math.floor(box.parentElement.clientWidth);
      if (Math.abs(width - Number(box.dataset.width)) > 8) later(box);
    }), 250);
  });

  // What scrolls sideways can be reached by keyboard, and only then.
  const markScroll = () => {
    for (const place of document.querySelectorAll(".picture, .scroll, .grid-scroll")) {
      const scrolls = place.scrollWidth > place.clientWidth + 1
        || place.scrollHeight > place.clientHeight + 1;
      if (scrolls) place.tabIndex = 0; else place.removeAttribute("tabindex");
    }
  };
  document.addEventListener("toggle", markScroll, true);
  markScroll();

  // Lens grid: choose a position; arrows move through the cells, focus or hover tells more.
  const table = document.querySelector(".lens-grid");
  if (table) {
    const grid = data("lens-grid-data");
    const tools = document.querySelector(".grid-tools");
    const select = document.getElementById("grid-position");
    const details = document.getElementById("grid-details");
    const body = [...table.tBodies[0].rows].map((row) => [...row.cells].slice(1));
    const heads = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent.trim());
    const layers = [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
    const chance = (p) => {
      if (p === null) return "–";
      return p >= 1e-4 ? `${Number((100 * p).toPrecision(3))} %` : "< 0.01 %";
    };
    let active = [0, 0];
    const at = (r, c) => grid.cells[select.selectedIndex][r][c];
    const show = () => {
      body.forEach((row, r) => row.forEach((td, c) => {
        const cell = at(r, c);
        td.removeAttribute("title");
        td.className = cell ? `p${Math.min(Math.floor((cell[1] ?? 0) * 10), 9)}` : "";
        if (cell && cell[5]) td.classList.add("same");
        td.querySelector("bdi").textContent = cell ? grid.words[cell[0]] : "–";
        td.querySelector("small").textContent = !cell ? "" : chance(cell[1])
          + (cell[2] === null ? "" : ` · e${cell[2]}`);
      }));
    };
    const tell = (r, c) => {
      const cell = at(r, c);
      if (!cell) { details.textContent = "Nothing was recorded here."; return; }
      const [word, p, expert, weight, following, same] = cell;
      const parts = [`Layer ${layers[r]}, ${heads[c]}: ${grid.words[word]} ${chance(p)}`];
      if (expert !== null) {
        parts.push(`expert ${expert}${weight === null ? "" : `, weight ${weight.toFixed(3)}`}`);
      }
      parts.push(`most probable: ${following.map(([w, q]) => `${grid.words[w]} ${chance(q)}`).join(", ")}`);
      if (same) parts.push("same word as the layer");
      details.textContent = parts.join("; ");
    };
    const focus = (r, c) => {
      body[active[0]][active[1]].tabIndex = -1;
      active = [r, c];
      body[r][c].tabIndex = 0;
      body[r][c].focus();
    };
    body.forEach((row, r) => row.forEach((td, c) => {
      td.tabIndex = -1;
      td.addEventListener("focus", () => tell(r, c));
      td.addEventListener("mouseenter", () => tell(r, c));
      td.addEventListener("click", () => focus(r, c));
    }));
    body[0][0].tabIndex = 0;
    table.setAttribute("role", "grid");
    table.addEventListener("keydown", (event) => {
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      const r = Math.min(Math.max(active[0] + step[0], 0), body.length - 1);
      const c = Math.min(Math.max(active[1] + step[1], 0), body[0].length - 1);
      focus(r, c);
    });
    select.addEventListener("change", show);
    tools.hidden = false;
    show();
  }
})();
