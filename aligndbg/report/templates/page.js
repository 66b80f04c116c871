"use strict";
// Draws the pairs and the graphs from the JSON in #data. Text goes in as text nodes only: names come from models.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const at = Object.fromEntries(data.metrics.map((name, k) => [name, k]));
const metric = (pair, name, own) => { const from = own ? pair.i : pair.m; return from ? from[at[name]] : null; };
const SVG = "http://www.w3.org/2000/svg";

function h(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value); else made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}
function s(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
function num(value, digits = 3) {
  if (value === null || value === undefined) return "-";
  if (typeof value === "string" || typeof value === "boolean") return String(value);
  if (value === 0 || (Number.isInteger(value) && Math.abs(value) < 1e6)) return String(value);
  const size = Math.abs(value);
  return size >= 0.01 && size < 1e5 ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 1);
}
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const index = list => "[" + list.join(", ") + "]";

// --- the table ----------------------------------------------------------------------------------------------------
const tools = document.querySelector(".tools");
const body = document.querySelector(".pairs tbody");
const rows = body ? [...body.rows] : [];
const find = document.getElementById("find");
const outputs = document.getElementById("outputs");
const statuses = ["fault", "drift", "unknown", "pass"];
const numbers = {
  rel_l2: p => metric(p, "rel_l2"), own: p => metric(p, "rel_l2", true), max_abs: p => metric(p, "max_abs"),
  cosine: p => metric(p, "cosine"), lsb: p => metric(p, "lsb_max"), own_lsb: p => metric(p, "lsb_max", true),
};
const words = { r: p => p.r, c: p => p.c, ops: p => p.ops.join(" ~ ") };

function keyOf(name, k) {
  const pair = data.pairs[k];
  if (name === "k") return k;
  if (name === "status") return statuses.indexOf(pair.status);
  if (words[name]) return words[name](pair);
  const value = numbers[name](pair);
  return value === "inf" ? Infinity : value === "-inf" ? -Infinity : value;
}
function sortBy(head) {
  const name = head.dataset.key;
  const worstFirst = name in numbers && name !== "cosine";
  const before = head.getAttribute("aria-sort");
  const order = before ? (before === "ascending" ? "descending" : "ascending") : worstFirst ? "descending" : "ascending";
  for (const other of document.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const keys = new Map(rows.map(row => [row, keyOf(name, Number(row.dataset.pair))]));
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => {
    const x = keys.get(a), y = keys.get(b);
    if (x === null || y === null) return (x === null) - (y === null);  // undefined last, either way
    return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y)
      || a.dataset.pair - b.dataset.pair;
  });
  place();
}
function place() {
  for (const row of rows) { body.append(row); if (row.panel) body.append(row.panel); }
}
function filter() {
  const wanted = new Set([...document.querySelectorAll(".chip[data-status][aria-pressed=true]")].map(c => c.dataset.status));
  const text = find.value.trim().toLowerCase();
  const only = outputs.getAttribute("aria-pressed") === "true";
  let count = 0;
  for (const row of rows) {
    const p = data.pairs[row.dataset.pair];
    const all = [p.r, p.c, ...p.ops, p.reason, p.cause || ""].join("\n").toLowerCase();
    const fits = wanted.has(p.status) && (!only || p.output) && all.includes(text);
    row.hidden = !fits;
    if (row.panel) row.panel.hidden = !fits;
    count += fits;
  }
  document.getElementById("shown").textContent = count === rows.length ? "" : `${count} of ${rows.length} pairs`;
}
function toggle(row, open) {
  const wasOpen = row.classList.contains("open");
  if (open === wasOpen) return;
  row.classList.toggle("open", !wasOpen);
  row.querySelector(".state button").setAttribute("aria-expanded", String(!wasOpen));
  if (wasOpen) { row.panel.remove(); row.panel = null; return; }
  row.panel = h("tr", { class: "more" }, h("td", { colspan: row.cells.length }, panel(Number(row.dataset.pair))));
  row.after(row.panel);
}
function show(k) {
  const row = document.getElementById("p" + k);
  if (row.hidden) {
    find.value = "";
    outputs.setAttribute("aria-pressed", "false");
    for (const chip of document.querySelectorAll(".chip[data-status]")) chip.setAttribute("aria-pressed", "true");
    filter();
  }
  toggle(row, true);
  row.scrollIntoView({ block: "start" });
  history.replaceState(null, "", "#p" + k);
}

// --- one pair -----------------------------------------------------------------------------------------------------
function panel(k) {
  const p = data.pairs[k], d = p.detail;
  const parts = [lead(p, k)];
  if (d) {
    parts.push(histogram(p, d), scatter(p, d));
    if (d.profiles.length) parts.push(profiles(d), ...d.maps.map(map));
    if (d.worst.length) parts.push(elements("largest differences", d.worst));
    if (d.bad) parts.push(elements(`first of ${d.bad} bad elements`, d.first, limit(d)));
  }
  parts.push(node(0, p), node(1, p), metricsTable(p));
  return h("div", { class: "panel" }, ...parts);
}
function lead(p, k) {
  const facts = [["why", p.reason], ["cause", p.cause], ["paired by", `${p.found}; ${p.evidence}`], ["layout", p.layout]];
  for (const [name, text] of Object.entries(p.why)) facts.push([name + " undefined", text]);
  if (p.detail && !p.detail.profiles.length) facts.push(["difference", "none: every element is equal"]);
  if (p.samples) facts.push(["samples", Object.entries(p.samples).map(([n, v]) => `${n} ${typeof v === "string" ? v : num(v)}`).join(", ")]);
  const list = h("dl", {}, ...facts.filter(f => f[1]).flatMap(f => [h("dt", {}, f[0]), h("dd", {}, f[1])]));
  const link = graphBox && p.nodes[0] >= 0
    ? h("button", { type: "button", class: "go", style: "margin:0", onclick: () => showInGraph(k) }, "show in the graphs") : null;
  return h("div", { class: "lead" }, list, link);
}
function figure(title, note, drawing) {
  return h("figure", {}, h("h3", {}, title), drawing, note ? h("figcaption", {}, note) : null);
}
function histogram(p, d) {
  const W = 290, H = 150, bins = d.counts[0].length;
  const top = Math.log1p(Math.max(1, ...d.counts[0], ...d.counts[1]));
  const y = n => H - Math.log1p(n) / top * (H - 6);
  const x = k => k / bins * W;
  const svg = s("svg", { width: W, height: H + 16, viewBox: `0 0 ${W} ${H + 16}`, role: "img", "aria-label": "histogram of both sides" });
  let outline = `M0 ${H}`;
  d.counts[0].forEach((n, k) => n && svg.append(s("rect", { class: "ref", x: x(k), y: y(n), width: W / bins - 0.5, height: H - y(n) })));
  d.counts[1].forEach((n, k) => { outline += `L${x(k)} ${y(n)}L${x(k + 1)} ${y(n)}`; });
  svg.append(s("path", { class: "cand", d: outline + `L${W} ${H}` }), s("path", { class: "edge", d: `M0 ${H}H${W}` }),
    s("text", { x: 0, y: H + 13 }, num(d.range[0])), s("text", { x: W, y: H + 13, "text-anchor": "end" }, num(d.range[1])));
  const lost = ["nan", "inf"].map(n => [n, metric(p, n + "_reference"), metric(p, n + "_candidate")]).filter(n => n[1] || n[2])
    .map(n => `; ${n[0]}: ${n[1]} against ${n[2]}`).join("");
  return figure("histogram", `filled: reference, line: candidate; counts on a logarithmic axis${lost}`, svg);
}
function scatter(p, d) {
  const W = 166, points = bytes(d.points);
  const svg = s("svg", { width: W, height: W, viewBox: `0 0 ${W} ${W}`, role: "img", "aria-label": "candidate against reference" });
  svg.append(s("rect", { class: "edge", x: 0, y: 0, width: W, height: W }), s("path", { class: "edge", d: `M0 ${W}L${W} 0` }));
  const dot = (x, y, kind) => svg.append(s("circle", { class: kind, r: 2, cx: x * W, cy: W - y * W }));
  for (let k = 0; k < points.length; k += 2) dot(points[k] / 254, points[k + 1] / 254, "dot");
  const span = d.range[1] - d.range[0];
  for (const [, , r, c] of d.worst) {
    if (typeof r === "number" && typeof c === "number") dot((r - d.range[0]) / span, (c - d.range[0]) / span, "hot");
  }
  return figure("scatter", `across: reference, up: candidate; ${points.length / 2} sampled elements, red the largest differences`, svg);
}
function profiles(d) {
  const W = 290, H = 34, box = h("div", {});
  for (const p of d.profiles) {
    const cells = bytes(p.cells), w = W / cells.length;
    const svg = s("svg", { width: W, height: H, viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `max difference along axis ${p.axis}` });
    cells.forEach((v, k) => {
      const high = v === 255 ? H : v / 254 * H;
      if (v) svg.append(s("rect", { class: v === 255 ? "hot" : "cell", x: k * w, y: H - high, width: Math.max(0.8, w - 0.5), height: high },
        s("title", {}, `axis ${p.axis} [${k * p.step}${p.step > 1 ? ".." + Math.min(p.size - 1, k * p.step + p.step - 1) : ""}]: ${v === 255 ? "not finite" : num(v / 254 * p.max)}`)));
    });
    svg.append(s("path", { class: "edge", d: `M0 ${H}H${W}` }));
    box.append(svg, h("figcaption", { style: "margin-bottom:.5rem" }, `axis ${p.axis} (${p.size})${p.step > 1 ? `, ${p.step} indices a bar` : ""}`));
  }
  return figure("largest difference by axis", `up to ${num(d.profiles[0].max)}`, box);
}
function map(m) {
  const [height, width] = m.size, cells = bytes(m.cells);
  const canvas = h("canvas", { width, height, role: "img", "aria-label": `largest difference over axes ${m.axes.join(" and ")}` });
  const unit = Math.max(2, Math.min(24, Math.floor(200 / Math.max(width, height))));
  canvas.style.cssText = `width:${width * unit}px;height:${height * unit}px`;
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.querySelector(".page"));
  for (let k = 0; k < cells.length; k++) {
    pen.globalAlpha = cells[k] === 255 ? 1 : cells[k] / 254;
    pen.fillStyle = style.getPropertyValue(cells[k] === 255 ? "--bad" : "--own");
    pen.fillRect(k % width, Math.floor(k / width), 1, 1);
  }
  canvas.addEventListener("mousemove", event => {
    const box = canvas.getBoundingClientRect();
    const c = Math.min(width - 1, Math.floor((event.clientX - box.left) / box.width * width));
    const r = Math.min(height - 1, Math.floor((event.clientY - box.top) / box.height * height));
    const v = cells[r * width + c];
    canvas.title = `axis ${m.axes[0]} [${r * m.steps[0]}], axis ${m.axes[1]} [${c * m.steps[1]}]: ${v === 255 ? "not finite" : num(v / 254 * m.max)}`;
  });
  const step = m.steps.some(n => n > 1) ? `; a cell covers ${m.steps.join("×")}` : "";
  return figure("where it differs", `down: axis ${m.axes[0]}, across: axis ${m.axes[1]}; largest over the others, up to ${num(m.max)}${step}`, canvas);
}
function limit(d) {
  const [atol, rtol] = d.limit;
  return `|difference| over ${num(atol)}${rtol ? ` + ${num(rtol)} |reference|` : ""}`;
}
function elements(title, list, note) {
  const same = list.every(e => !e[1]);
  const head = ["index", ...(same ? [] : ["in the candidate"]), "reference", "candidate", "difference"];
  const line = ([where, there, r, c]) => {
    const gap = typeof r === "number" && typeof c === "number" ? num(r - c) : "-";
    return h("tr", {}, ...[index(where), ...(same ? [] : [index(there || where)])].map(t => h("td", {}, t)),
      ...[num(r, 7), num(c, 7), gap].map(t => h("td", { class: "num" }, t)));
  };
  return h("div", {}, h("h3", {}, title), note ? h("p", { class: "dim" }, note) : null,
    h("table", {}, h("thead", {}, h("tr", {}, ...head.map((t, k) => h("th", { class: k > head.length - 4 ? "num" : "" }, t)))), h("tbody", {}, ...list.map(line))));
}
function metricsTable(p) {
  const lines = data.metrics.map((name, k) => [name, p.m[k], p.i ? p.i[k] : null]).filter(l => l[1] !== null || l[2] !== null);
  const head = ["metric", "accumulated", ...(p.i ? ["own"] : [])];
  return h("details", {}, h("summary", {}, "all metrics"),
    h("table", {}, h("thead", {}, h("tr", {}, ...head.map((t, k) => h("th", { class: k ? "num" : "" }, t)))), h("tbody", {}, ...lines.map(l =>
      h("tr", {}, h("td", {}, l[0]), h("td", { class: "num" }, num(l[1], 5)), p.i ? h("td", { class: "num" }, num(l[2], 5)) : null)))));
}
function node(side, p) {
  const n = data.graphs[side][p.nodes[side]];
  const title = ["reference", "candidate"][side];
  if (!n) return h("div", { class: "node" }, h("h3", {}, title), h("code", {}, [p.r, p.c][side]), h("p", { class: "dim" }, "no graph is known"));
  const facts = [["operator", n.is ? `${n.op} (${n.is})` : n.op], ["node", n.name], ["scope", n.scope]];
  for (const t of n.in) facts.push(["reads", data.tensors[side][t]]);
  for (const t of n.out) facts.push(["gives", data.tensors[side][t]]);
  for (const a of n.at || []) facts.push(a);
  const cell = f => Array.isArray(f) ? [h("code", {}, f[0]), h("span", { class: "dim" }, "  " + f[1])] : [f];
  return h("div", { class: "node", style: "flex:1 1 20rem" }, h("h3", {}, title),
    h("dl", {}, ...facts.filter(f => f[1]).flatMap(f => [h("dt", {}, f[0]), h("dd", {}, ...cell(f[1]))])));
}

// --- both graphs --------------------------------------------------------------------------------------------------
const graphBox = document.querySelector(".graph");
const ROW = 30, BOX = 22;
let chosen = null;
function heat(p) {
  let v = metric(p, "rel_l2", true);
  if (v === null) return "hsl(270 35% 60%)";
  if (v === "inf") v = 1;
  const stops = [[210, 45, 55], [175, 45, 48], [80, 45, 45], [38, 85, 50], [0, 75, 52]];
  const x = v <= 0 ? 0 : Math.min(1, Math.max(0, (Math.log10(v) + 8) / 8)) * (stops.length - 1);
  const k = Math.min(stops.length - 2, Math.floor(x)), f = x - k;
  const mix = i => Math.round(stops[k][i] + (stops[k + 1][i] - stops[k][i]) * f);
  return `hsl(${mix(0)} ${mix(1)}% ${mix(2)}%)`;
}
const nodePair = [new Map(), new Map()];
data.pairs.forEach((p, k) => p.nodes.forEach((n, side) => { if (n >= 0) nodePair[side].set(n, k); }));

function drawGraph() {
  const width = Math.max(320, graphBox.clientWidth - 18);
  const gutter = Math.min(90, width * 0.12), middle = Math.min(160, width * 0.16), column = (width - 2 * gutter - middle) / 2;
  const left = [gutter, gutter + column + middle];
  const total = Math.max(...data.graphs.flatMap(g => g.map(n => n.row))) + 1;
  graphBox.style.height = Math.min(total * ROW + 14, Math.max(320, innerHeight * 0.8)) + "px";
  const first = Math.floor(graphBox.scrollTop / ROW) - 5, last = first + Math.ceil(graphBox.clientHeight / ROW) + 10;
  const near = (a, b) => Math.max(a, b) >= first && Math.min(a, b) <= last;
  const y = row => row * ROW + ROW / 2 + 6;
  const svg = s("svg", { width, height: total * ROW + 12, role: "img", "aria-label": "both graphs" });
  const edges = s("g"), links = s("g"), boxes = s("g");
  svg.append(edges, links, boxes);
  data.graphs.forEach((graph, side) => {
    const taken = new Uint32Array(total + 1);  // rows taken up to each one
    for (const n of graph) taken[n.row + 1] = 1;
    for (let k = 0; k < total; k++) taken[k + 1] += taken[k];
    const between = (a, b) => taken[b] > taken[a + 1];
    const outer = side ? left[1] + column : left[0], way = side ? 1 : -1, inside = left[side] + column / 2;
    graph.forEach((n, k) => {
      for (const from of n.src) {
        const a = graph[from].row;
        if (!near(a, n.row)) continue;
        if (!between(Math.min(a, n.row), Math.max(a, n.row))) {
          edges.append(s("path", { class: "edge", d: `M${inside} ${y(a) + BOX / 2}V${y(n.row) - BOX / 2}` }));
        } else {
          const out = outer + way * Math.min(gutter - 6, 10 + Math.abs(n.row - a) * 3);
          edges.append(s("path", { class: "edge", d: `M${outer} ${y(a)}C${out} ${y(a)} ${out} ${y(n.row)} ${outer} ${y(n.row)}` }));
        }
      }
      if (near(n.row, n.row)) boxes.append(box(n, k, side, left[side], y(n.row), column));
    });
  });
  data.pairs.forEach((p, k) => {
    const [a, b] = p.nodes;
    if (a < 0 || b < 0) return;
    const ra = data.graphs[0][a].row, rb = data.graphs[1][b].row;
    if (!near(ra, rb)) return;
    const x0 = left[0] + column, x1 = left[1], mid = (x0 + x1) / 2;
    links.append(s("path", { class: "link", stroke: heat(p), d: `M${x0} ${y(ra)}C${mid} ${y(ra)} ${mid} ${y(rb)} ${x1} ${y(rb)}`, "data-pair": k },
      s("title", {}, `${p.r} ~ ${p.c}\nown ${num(metric(p, "rel_l2", true))}, accumulated ${num(metric(p, "rel_l2"))} (${p.status})`)));
  });
  graphBox.replaceChildren(svg);
}
function box(n, k, side, x, y, width) {
  const pair = nodePair[side].get(k), p = data.pairs[pair];
  const g = s("g", p ? { "data-pair": pair } : {});
  const fill = p ? heat(p) : { unmatched: "var(--bad)", one_sided: "#b9a5cf", unobservable: "#8a929c" }[n.lost] || "transparent";
  const rect = s("rect", { x, y: y - BOX / 2, width, height: BOX, rx: 4, fill, "fill-opacity": p && p.status === "fault" ? 0.6 : 0.28 });
  if (!p) rect.setAttribute("stroke-dasharray", "3 3");
  if (p && pair === chosen) rect.setAttribute("class", "chosen");
  const fits = Math.floor((width - 14) / 7), op = n.op.length > fits ? n.op.slice(0, fits - 1) + "…" : n.op;
  const room = Math.floor((width - 26 - op.length * 7.6) / 5.6);
  const output = n.out.length ? data.tensors[side][n.out[0]][0] : n.name;
  const name = room < 6 ? "" : output.length > room ? "…" + output.slice(-(room - 1)) : output;
  g.append(rect, s("text", { x: x + 7, y: y + 4 }, op), s("text", { class: "small", x: x + width - 7, y: y + 4, "text-anchor": "end" }, name),
    s("title", {}, `${n.op}  ${output}\n${p ? `${p.status}, own ${num(metric(p, "rel_l2", true))}` : (n.lost || "not compared").replace("_", "-")}`));
  return g;
}
function showInGraph(k) {
  chosen = k;
  document.getElementById("graph").open = true;
  const row = data.graphs[0][data.pairs[k].nodes[0]].row;
  graphBox.scrollTop = Math.max(0, row * ROW - graphBox.clientHeight / 2);
  drawGraph();
  document.getElementById("graphs").scrollIntoView({ block: "start" });
}

// --- what happens when --------------------------------------------------------------------------------------------
if (tools) {
  tools.hidden = false;
  for (const head of document.querySelectorAll("th[data-key]")) head.firstElementChild.addEventListener("click", () => sortBy(head));
  find.addEventListener("input", filter);
  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
      filter();
    });
  }
  body.addEventListener("mouseover", event => {
    const name = event.target.closest("td.name");
    if (name) name.title = name.textContent;
  });
  document.addEventListener("click", event => {
    const target = event.target.closest("[data-pair]");
    if (!target) return;
    if (target.tagName !== "TR") show(Number(target.dataset.pair));
    else if (!String(getSelection())) toggle(target, !target.classList.contains("open"));
  });
  if (/^#p\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1))) show(Number(location.hash.slice(2)));
}
if (graphBox) {
  const details = document.getElementById("graph");
  details.addEventListener("toggle", () => details.open && drawGraph());
  let waiting = false;
  const later = () => {
    if (waiting || !details.open) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; drawGraph(); });
  };
  graphBox.addEventListener("scroll", later);
  addEventListener("resize", later);
}
})();
