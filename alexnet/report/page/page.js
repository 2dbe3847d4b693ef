"use strict";
// Curves, matrix, table and theme of the page. Names come from data: they only ever become text.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = (id) => (byId(id) ? JSON.parse(byId(id).textContent) : null);
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes = {}, text) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const number = (value) => Number(value.toPrecision(4)).toLocaleString("en");

  // --- light and dark ---------------------------------------------------------------------------
  const root = document.documentElement;
  const theme = byId("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  prefersDark.addEventListener("change", showTheme);
  showTheme();
  // Paper is white: a dark page is printed light, and is dark again afterwards.
  let before;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
  });
  window.addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
  });

  // --- learning curves --------------------------------------------------------------------------
  const curves = data("curve-data");
  const hidden = new Set();
  const charts = [];
  const MARGIN = { left: 48, right: 12, top: 10, bottom: 40 };

  // Round numbers that divide a range: 1, 2 or 5 times a power of ten.
  function linearTicks(low, high, most) {
    const rough = (high - low) / most || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const ticks = [];
    for (let n = Math.ceil(low / step); n * step <= high * (1 + 1e-9); n++) ticks.push(n * step);
    return ticks;
  }
  function logTicks(low, high) {
    const all = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
      for (const n of [1, 2, 5]) all.push(n * 10 ** e);
    const inside = all.filter((n) => n >= low * 0.999 && n <= high * 1.001);
    return inside.length > 8 ? inside.filter((n) => Math.abs(Math.log10(n) % 1) < 1e-9) : inside;
  }
  function scale(low, high, from, to, log) {
    const f = log ? Math.log10 : (x) => x;
    const [a, b] = [f(low), f(high)];
    const at = (x) => from + ((f(log ? Math.max(x, low) : x) - a) / (b - a || 1)) * (to - from);
    return Object.assign(at, { ticks: log ? logTicks(low, high) : linearTicks(low, high, 6) });
  }
  const shown = () => curves.runs.filter((run) => !hidden.has(run.place)).map((run) => ({ run, place: run.place }));
  const values = (key) => shown().flatMap(({ run }) =>
    [...(run.train["mean_" + key] || []), ...run.train[key], ...run.eval[key]]);
  const steps = () => [...new Set(shown().flatMap(({ run }) => [...run.train.step, ...run.eval.step]))]
    .sort((a, b) => a - b);

  function quantile(sorted, share) { return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]; }
  function rangeOf(key, log) {
    const sorted = values(key).sort((a, b) => a - b);
    if (!sorted.length) return [log ? 0.1 : 0, 1];
    const top = Math.min(sorted[sorted.length - 1], 1.3 * quantile(sorted, 0.98) || Infinity);
    if (log) return [Math.max(sorted.find((v) => v > 0) || 1e-3, 1e-6), sorted[sorted.length - 1] || 1];
    return [0, key === "error" ? Math.min(100, top * 1.04) || 1 : top * 1.04 || 1];
  }

  function draw(chart) {
    const { holder, key } = chart;
    const [width, height] = [holder.clientWidth, holder.clientHeight];
    if (!width) return;
    const logY = key === "loss" && byId("log-loss").checked;
    const logX = byId("log-step").checked;
    const all = steps();
    const [low, high] = rangeOf(key, logY);
    const first = logX ? Math.max(1, all[0] || 1) : 0;
    const x = scale(first, Math.max(all[all.length - 1] || 1, first + 1), MARGIN.left, width - MARGIN.right, logX);
    const y = scale(low, high, height - MARGIN.bottom, MARGIN.top, logY);
    const clip = "clip-" + key;
    const svg = chart.svg;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const defs = make("clipPath", { id: clip });
    defs.append(make("rect", { x: MARGIN.left, y: 2, width: width - MARGIN.left - 6, height: height - MARGIN.bottom }));
    svg.append(defs);
    for (const tick of y.ticks) {
      svg.append(make("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }));
      svg.append(make("text", { x: MARGIN.left - 8, y: y(tick) + 4, "text-anchor": "end", class: "tick-y" }, number(tick)));
    }
    for (const tick of x.ticks)
      svg.append(make("text", { x: x(tick), y: height - 22, "text-anchor": "middle", class: "tick-x" }, number(tick)));
    svg.append(make("text", { x: width - MARGIN.right, y: height - 5, "text-anchor": "end" }, logX ? "step (log)" : "step"));
    const body = make("g", { "clip-path": `url(#${clip})` });
    const line = (part, column, kind, place) => {
      const points = part.step.map((s, i) => `${x(s).toFixed(1)},${y(part[column][i]).toFixed(1)}`);
      if (points.length) body.append(make("polyline", { points: points.join(" "), class: `series ${kind} s${place}` }));
    };
    for (const { run, place } of shown()) {
      line(run.train, key, "raw", place);
      line(run.train, "mean_" + key, "mean", place);
      line(run.eval, key, "eval", place);
      run.eval.step.forEach((s, i) =>
        body.append(make("circle", { cx: x(s), cy: y(run.eval[key][i]), r: run.eval.step.length > 60 ? 1.6 : 3.2, class: `dot s${place}` })));
    }
    chart.hair = make("line", { class: "hair", y1: MARGIN.top, y2: height - MARGIN.bottom, visibility: "hidden" });
    svg.append(body, chart.hair);
    Object.assign(chart, { x, all, width });
  }

  const nearest = (sorted, step) => {
    let best = -1;
    sorted.forEach((s, i) => { if (best < 0 || Math.abs(s - step) < Math.abs(sorted[best] - step)) best = i; });
    return best;
  };
  function point(chart, step) {
    const lines = [`step ${number(step)}`];
    const unit = chart.key === "error" ? " %" : "";
    for (const { run } of shown()) {
      const t = nearest(run.train.step, step), e = nearest(run.eval.step, step);
      const words = [];
      if (t >= 0) words.push(`training ${number(run.train["mean_" + chart.key][t])}${unit} (batch ${number(run.train[chart.key][t])}${unit})`);
      if (e >= 0) words.push(`evaluation ${number(run.eval[chart.key][e])}${unit} at ${number(run.eval.step[e])}`);
      lines.push(`${run.name}: ${words.join(", ")}`);
    }
    chart.at = step;
    const left = chart.x(step);
    chart.hair.setAttribute("x1", left);
    chart.hair.setAttribute("x2", left);
    chart.hair.setAttribute("visibility", "visible");
    chart.tip.hidden = false;
    chart.tip.textContent = lines.join("\n");
    const wide = chart.tip.offsetWidth;
    const place = left > chart.width / 2 ? left - wide - 12 : left + 12;
    chart.tip.style.left = `${Math.max(0, Math.min(place, chart.width - wide))}px`;
    return lines.join("; ");
  }
  function leave(chart) {
    chart.tip.hidden = true;
    chart.hair.setAttribute("visibility", "hidden");
  }
  function listen(chart) {
    chart.svg.addEventListener("pointermove", (event) => {
      if (!chart.all || !chart.all.length) return;
      const place = event.clientX - chart.svg.getBoundingClientRect().left;
      const near = chart.all.reduce((a, b) => (Math.abs(chart.x(b) - place) < Math.abs(chart.x(a) - place) ? b : a));
      point(chart, near);
    });
    chart.svg.addEventListener("pointerleave", () => leave(chart));
    chart.svg.addEventListener("blur", () => leave(chart));
    chart.svg.addEventListener("keydown", (event) => {
      const last = chart.all.length - 1;
      if (last < 0) return;
      const now = chart.at === undefined ? -1 : nearest(chart.all, chart.at);
      const to = { ArrowLeft: Math.max(0, now - 1), ArrowRight: Math.min(last, now + 1), Home: 0, End: last }[event.key];
      if (event.key === "Escape") leave(chart);
      if (to === undefined) return;
      event.preventDefault();
      byId("readout").textContent = point(chart, chart.all[to]);
    });
  }
  function legend() {
    curves.runs.forEach((run) => {
      const place = run.place;
      const button = document.createElement("button");
      const swatch = document.createElement("i"), name = document.createElement("span");
      swatch.className = "swatch";
      name.textContent = run.name;
      button.type = "button";
      button.className = `s${place}`;
      button.setAttribute("aria-pressed", "true");
      button.append(swatch, name);
      button.addEventListener("click", () => {
        if (!hidden.delete(place)) hidden.add(place);
        button.setAttribute("aria-pressed", String(!hidden.has(place)));
        charts.forEach(draw);
      });
      byId("legend").append(button);
    });
  }
  if (curves) {
    legend();
    for (const holder of document.querySelectorAll(".chart")) {
      const svg = make("svg", { tabindex: 0, role: "img",
        "aria-label": `${holder.dataset.title} by step; arrow keys read values` });
      const tip = document.createElement("div");
      tip.className = "tip";
      tip.hidden = true;
      holder.append(svg, tip);
      const chart = { holder, svg, tip, key: holder.dataset.key };
      charts.push(chart);
      listen(chart);
      new ResizeObserver(() => draw(chart)).observe(holder);
    }
    for (const id of ["log-loss", "log-step"]) byId(id).addEventListener("change", () => charts.forEach(draw));
  }

  // --- grids: confusion matrix, occlusion maps --------------------------------------------------
  const percent = (share) => `${number(100 * share)} %`;
  const SENTENCES = {
    confusion: (row, column, count) => `true ${row}, predicted ${column}: ${count}`,
    occlusion: (row, column, share) => `row ${row}, column ${column} covered: ${percent(share)}`,
  };
  for (const frame of document.querySelectorAll(".heat")) {
    const { rows, columns, values, kind } = data(frame.dataset.heat);
    const area = frame.querySelector(".heat-area"), out = byId(frame.getAttribute("aria-describedby"));
    const cursor = document.createElement("div");
    cursor.className = "heat-cursor";
    cursor.hidden = true;
    frame.append(cursor);
    let at = null;
    const within = (n, most) => Math.max(0, Math.min(most - 1, n));
    const show = (row, column) => {
      at = [within(row, rows.length), within(column, columns.length)];
      const box = area.getBoundingClientRect(), own = frame.getBoundingClientRect();
      const [width, height] = [box.width / columns.length, box.height / rows.length];
      cursor.hidden = false;
      cursor.style.left = `${box.left - own.left + at[1] * width}px`;
      cursor.style.top = `${box.top - own.top + at[0] * height}px`;
      cursor.style.width = `${width}px`;
      cursor.style.height = `${height}px`;
      out.textContent = SENTENCES[kind](rows[at[0]], columns[at[1]], values[at[0]][at[1]]);
    };
    frame.addEventListener("pointermove", (event) => {
      const box = area.getBoundingClientRect();
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
      show(Math.floor(y * rows.length), Math.floor(x * columns.length));
    });
    frame.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!move) return;
      event.preventDefault();
      if (at) show(at[0] + move[0], at[1] + move[1]); else show(0, 0);
    });
  }

  // --- table of classes -------------------------------------------------------------------------
  for (const button of document.querySelectorAll(".sortable button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), table = button.closest("table");
      const column = Number(button.dataset.column), down = head.getAttribute("aria-sort") === "ascending";
      const key = (row) => row.children[column].textContent;
      const compare = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      const rows = [...table.tBodies[0].rows].sort(compare);
      table.querySelectorAll("th[aria-sort]").forEach((th) => th.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      table.tBodies[0].append(...(down ? rows.reverse() : rows));
    });
  }
})();
